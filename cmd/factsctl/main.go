// Command factsctl is the workbench: the manufacturer's engineer records a
// golden device, drafts, checks and signs manifests and key lists with it, and
// the operator's technician looks into what a device shows and says.
//
// It trusts the files it is told to trust on the command line, and nothing else.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return report(os.Stderr, newRootCommand().ExecuteContext(ctx))
}
