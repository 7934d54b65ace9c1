package local

import (
	"errors"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// renameExclusive renames oldname to newname, both in the same directory,
// unless newname exists.
func renameExclusive(root *os.Root, oldname, newname string) error {
	dir, err := root.Open(path.Dir(newname))
	if err != nil {
		return err
	}
	conn, err := dir.SyscallConn()
	if err != nil {
		return errors.Join(err, dir.Close())
	}
	var errRename error
	err = conn.Control(func(fd uintptr) {
		errRename = unix.Renameat2(int(fd), path.Base(oldname), int(fd), path.Base(newname), unix.RENAME_NOREPLACE)
	})
	if errRename != nil {
		errRename = &os.LinkError{Op: "renameat2", Old: oldname, New: newname, Err: errRename}
	}
	return errors.Join(err, errRename, dir.Close())
}
