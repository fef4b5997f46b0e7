package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// program runs a program of this machine to its end.
func program(ctx context.Context, stdin io.Reader, name string, args ...string) error {
	_, err := output(ctx, stdin, name, args...)
	return err
}

// output runs a program of this machine to its end and returns what it prints.
func output(ctx context.Context, stdin io.Reader, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("cannot run %s: %w\n%s", strings.Join(append([]string{name}, args...), " "), err, errs.Bytes())
	}
	return out.Bytes(), nil
}
