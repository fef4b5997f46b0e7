package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"time"
)

// converse runs what is typed in the machine, line by line, until an empty line.
func (d *device) converse(ctx context.Context, in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	for {
		fmt.Fprint(out, "gateway# ")
		if !lines.Scan() || lines.Text() == "" {
			fmt.Fprintln(out)
			return lines.Err()
		}
		if lines.Text() == "reset" {
			if err := d.m.reset(ctx); err != nil {
				return err
			}
			fmt.Fprintln(out, "booted anew")
			continue
		}
		said, code, err := d.m.link.run(ctx, lines.Text(), nil, 2*time.Minute)
		if err != nil {
			return err
		}
		fmt.Fprint(out, said)
		if code != 0 {
			fmt.Fprintln(out, "exit status", code)
		}
	}
}
