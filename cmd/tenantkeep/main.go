// Command tenantkeep backs up and restores PostgreSQL databases that keep one
// schema per customer. This package wires settings, storages and engines
// together; each command has a file of its own.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	// A container may have no list of time zones, of which retention needs one.
	_ "time/tzdata"
)

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	os.Exit(mainCode())
}

// gcPercent is how much memory may hold garbage, of what is in use. Half of Go's
// default takes a fifth less memory beside the server, and no measurable time.
const gcPercent = 50

// mainCode runs the program as the shell started it.
func mainCode() int {
	// The first signal lets the run clean up. From then on signals have their
	// usual effect, so that a second one ends the process at once.
	ctx, restore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer restore()
	context.AfterFunc(ctx, restore)
	return run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}
