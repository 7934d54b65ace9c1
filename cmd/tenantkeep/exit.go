package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// The exit codes of the process.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitPartial     = 3   // some tenants failed, the rest is safe
	exitNotRun      = 126 // the command of a startup cannot be run, as shells say it
	exitNotFound    = 127 // or is not there
	exitInterrupted = 130
)

// usageError is a command line or a setting that makes no sense.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }

func (e *usageError) Unwrap() error { return e.err }

// Hint tells what to do next.
func (e *usageError) Hint() string { return e.hint }

func usagef(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}

// asUsage marks an error as wrong usage, with the hint that it has.
func asUsage(err error) error {
	var usage *usageError
	if errors.As(err, &usage) {
		return err
	}
	hint := ""
	if hinted, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		hint = hinted.Hint()
	}
	return &usageError{err: err, hint: hint}
}

// hintedError is an error with what to do next.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() }

func (e *hintedError) Unwrap() error { return e.err }

// Hint tells what to do next.
func (e *hintedError) Hint() string { return e.hint }

// partialError is a run that did its work for some tenants and not for others.
type partialError struct{ err error }

func (e *partialError) Error() string { return e.err.Error() }

func (e *partialError) Unwrap() error { return e.err }

// exit says what went wrong, if anything did, and returns the exit code.
func (a *app) exit(ctx context.Context, err error) int {
	code := exitCode(ctx, err)
	var verdict *healthError
	switch {
	case err == nil:
	case errors.As(err, &verdict) && verdict.err == nil: // the report has told
	case errors.Is(err, ui.ErrLeft):
		a.ui().Printf("Nothing was changed.")
	case code == exitInterrupted && errors.Is(err, context.Canceled):
		a.ui().Error(errors.New("interrupted"))
	case code == exitInterrupted: // and what came of it, which may be more
		a.ui().Error(fmt.Errorf("interrupted: %w", err))
	default:
		a.ui().Error(err)
	}
	return code
}

// exitCode maps the end of a run to the exit code. The context is that of the
// process: it is cancelled by signals only.
func exitCode(ctx context.Context, err error) int {
	var (
		usage      *usageError
		setting    *config.Error
		unattended *ui.UnattendedError
		partial    *partialError
		command    *commandError
		verdict    *healthError
	)
	switch {
	case err == nil:
		return exitDone
	case ctx.Err() != nil, errors.Is(err, ui.ErrLeft):
		return exitInterrupted
	case errors.As(err, &command) && command.missing:
		return exitNotFound
	case errors.As(err, &command):
		return exitNotRun
	case errors.As(err, &verdict):
		return int(verdict.state)
	case errors.As(err, &usage), errors.As(err, &setting), errors.As(err, &unattended):
		return exitUsage
	case errors.As(err, &partial):
		return exitPartial
	default:
		return exitFailed
	}
}
