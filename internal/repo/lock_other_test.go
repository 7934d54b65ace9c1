//go:build !linux

package repo

import "errors"

func setHostname(string) error { return errors.ErrUnsupported }
