package ui

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrDeclined is returned where the user was asked and did not agree.
var ErrDeclined = errors.New("not confirmed; nothing was changed")

// UnattendedError is a question without anybody to answer it.
type UnattendedError struct{ Question string }

// Error repeats the question.
func (e *UnattendedError) Error() string {
	return fmt.Sprintf("%q needs an answer, and there is no terminal to ask on", e.Question)
}

// Hint tells how to agree beforehand.
func (e *UnattendedError) Hint() string { return "give --yes to agree without being asked" }

// Confirm asks whether to go on. With yes set it does not ask; without a
// terminal it is an error that names --yes. Anything but "y" or "yes" is
// ErrDeclined. The caller makes names in the question safe.
func (u *UI) Confirm(ctx context.Context, question string, yes bool) error {
	if yes {
		return nil
	}
	answer, err := u.ask(ctx, question, " [y/N] ")
	if err != nil {
		return err
	}
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		return ErrDeclined
	}
	return nil
}

// ConfirmName asks the user to type a name, for what cannot be undone. It is
// otherwise like Confirm.
func (u *UI) ConfirmName(ctx context.Context, question, name string, yes bool) error {
	if yes {
		return nil
	}
	answer, err := u.ask(ctx, question, fmt.Sprintf(" Type %s to go on: ", Safe(name)))
	if err != nil {
		return err
	}
	if answer != name && answer != Safe(name) {
		return ErrDeclined
	}
	return nil
}

// CanAsk reports whether there is a terminal to ask on: both where the
// question is shown and where the answer comes from.
func (u *UI) CanAsk() bool { return u.termErr && IsTerminal(u.opts.Stdin) }

func (u *UI) ask(ctx context.Context, question, suffix string) (string, error) {
	if !u.CanAsk() {
		return "", &UnattendedError{question}
	}
	return u.read(ctx, question+suffix)
}

// read shows a prompt and returns the line that is typed, without the spaces
// around it.
func (u *UI) read(ctx context.Context, prompt string) (string, error) {
	if _, err := io.WriteString(u.err, prompt); err != nil {
		return "", err
	}
	type result struct {
		line string
		err  error
	}
	// A read from a terminal cannot be cancelled; after an interruption the
	// goroutine is left to end with the process.
	answer := make(chan result, 1)
	go func() {
		line, err := bufio.NewReader(u.opts.Stdin).ReadString('\n')
		answer <- result{line, err}
	}()
	select {
	case <-ctx.Done():
		u.say("")
		return "", ctx.Err()
	case r := <-answer:
		if r.err != nil && !errors.Is(r.err, io.EOF) {
			return "", fmt.Errorf("read answer: %w", r.err)
		}
		if errors.Is(r.err, io.EOF) {
			u.say("")
		}
		return strings.TrimSpace(r.line), nil
	}
}
