package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// telegraf measures InfluxData's telegraf with the inputs that come closest to
// our facts. Its values go to /dev/null, once a second. An interval that it skips
// on a busy machine counts as one that cost nothing.
func telegraf() (string, error) {
	const name = "telegraf, an interval"
	tool, err := exec.LookPath("telegraf")
	if err != nil {
		return fmt.Sprintf("%-34s NOT RUN: it is not installed", name), nil
	}
	dir, err := os.MkdirTemp("", "benchfacts-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	inputs := []string{"cpu", "kernel", "kernel_vmstat", "mem", "net", "netstat", "processes", "swap", "system", "temp"}
	var conf bytes.Buffer
	fmt.Fprintf(&conf, "[agent]\ninterval = %q\nround_interval = false\nflush_interval = \"1s\"\nmetric_buffer_limit = 100000\nquiet = true\nomit_hostname = true\n", pause.String())
	fmt.Fprintf(&conf, "[[outputs.file]]\nfiles = [\"/dev/null\"]\n")
	for _, i := range inputs {
		fmt.Fprintf(&conf, "[[inputs.%s]]\n", i)
		switch i {
		case "cpu":
			fmt.Fprintln(&conf, "percpu = false")
		case "kernel":
			fmt.Fprintln(&conf, `collect = ["psi"]`)
		case "net":
			fmt.Fprintln(&conf, "ignore_protocol_stats = true")
		}
	}
	file := filepath.Join(dir, "telegraf.conf")
	if err := os.WriteFile(file, conf.Bytes(), 0o600); err != nil {
		return "", err
	}
	var said bytes.Buffer
	cmd := exec.Command(tool, "--config", file)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("telegraf: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	defer func() {
		cmd.Process.Kill()
		<-exited
	}()
	select {
	case err := <-exited:
		exited <- err
		last, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		return fmt.Sprintf("%-34s NOT RUN: it ended at once: %v: %s", name, err, last), nil
	case <-time.After(3 * time.Second): // it starts its inputs
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	begin, err := threadTime(pid)
	if err != nil {
		return "", err
	}
	time.Sleep(cold * pause)
	end, err := threadTime(pid)
	if err != nil {
		return "", err
	}
	memory, err := rss(pid)
	return row(name, end-begin, cold, memory, "inputs "+strings.Join(inputs, " ")), err
}
