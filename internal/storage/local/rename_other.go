//go:build !linux

package local

import (
	"errors"
	"os"
)

// renameExclusive is only there on Linux.
func renameExclusive(*os.Root, string, string) error { return errors.ErrUnsupported }
