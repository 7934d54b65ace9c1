//go:build !linux

package local

import (
	"context"
	"errors"
)

// Space is not known.
func (*Store) Space(context.Context) (free, total int64, err error) {
	return 0, 0, errors.ErrUnsupported
}
