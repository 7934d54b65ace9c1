//go:build !unix

package pgdump

import "os/exec"

// ownGroup has no counterpart here: cancellation ends the process itself.
func ownGroup(*exec.Cmd) {}
