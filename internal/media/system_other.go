//go:build !linux

package media

import (
	"errors"
	"os"
	"syscall"
)

// version is empty: files are read each time.
func version(*syscall.Stat_t) string { return "" }

// extents knows no holes.
func extents(*os.File, int64) ([]Extent, error) { return nil, nil }

// hasAttributes says whether extended attributes are saved.
const hasAttributes = false

func attributes(*os.File) (map[string]string, error) { return nil, nil }

func setAttribute(*os.File, string, string) error { return errors.ErrUnsupported }

// setLinkTime leaves the time of a link as it is.
func setLinkTime(*os.File, string, int64, int) error { return nil }

// syncAll leaves it to the system when what was written becomes durable.
func syncAll(dir *os.File) error { return dir.Sync() }

func exchange(*os.File, string, string) error { return errors.ErrUnsupported }

func renameNew(*os.File, *os.File, string) error { return errors.ErrUnsupported }

// free is not known.
func free(*os.File) (int64, error) { return 0, errors.ErrUnsupported }
