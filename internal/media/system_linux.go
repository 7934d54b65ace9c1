package media

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// version tells by the time of the last change of any kind, and by which file it
// is, whether the contents of a file may have changed: the time of writing alone
// can be set to what it was.
func version(st *syscall.Stat_t) string {
	return fmt.Sprintf("%d:%d.%09d", st.Ino, st.Ctim.Sec, st.Ctim.Nsec)
}

// control calls f with the descriptor of a file.
func control(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) { failed = f(int(fd)) })
	return errors.Join(err, failed)
}

// maxExtents is how many parts of a sparse file are told apart. Of more, the
// smallest holes between them count as data.
const maxExtents = 4096

// extents are the parts of the first size bytes of a file that are no holes.
func extents(file *os.File, size int64) (list []Extent, err error) {
	var st unix.Stat_t
	if err := control(file, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return nil, err
	}
	if st.Blocks*512 >= size {
		return nil, nil
	}
	for hole := int64(64 << 10); ; hole *= 2 {
		list, err = extentsBut(file, size, hole)
		if err != nil || len(list) <= maxExtents {
			return list, err
		}
	}
}

// extentsBut leaves out holes that are smaller than hole.
func extentsBut(file *os.File, size, hole int64) ([]Extent, error) {
	list := []Extent{}
	err := control(file, func(fd int) error {
		for at := int64(0); at < size; {
			begin, err := unix.Seek(fd, at, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) || err == nil && begin >= size {
				return nil
			}
			if err != nil {
				return err
			}
			end, err := unix.Seek(fd, begin, unix.SEEK_HOLE)
			if err != nil {
				return err
			}
			at = min(end, size)
			if n := len(list); n > 0 && begin-(list[n-1].Offset+list[n-1].Length) < hole {
				list[n-1].Length = at - list[n-1].Offset
			} else {
				list = append(list, Extent{begin, at - begin})
			}
		}
		return nil
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) { // a file system that knows no holes
		return nil, nil
	}
	return list, err
}

// hasAttributes says whether extended attributes are saved.
const hasAttributes = true

// attributes are the extended attributes of a file that belong to its user, and
// its access control list.
func attributes(file *os.File) (list map[string]string, err error) {
	err = control(file, func(fd int) error {
		names := make([]byte, 4096)
		n, err := unix.Flistxattr(fd, names)
		for errors.Is(err, unix.ERANGE) {
			names = make([]byte, 4*len(names))
			n, err = unix.Flistxattr(fd, names)
		}
		if errors.Is(err, unix.ENOTSUP) || n == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		for name := range bytes.SplitSeq(bytes.TrimSuffix(names[:n], []byte{0}), []byte{0}) {
			if !strings.HasPrefix(string(name), "user.") && !strings.HasPrefix(string(name), "system.posix_acl_") {
				continue
			}
			v := make([]byte, 64<<10) // the greatest that Linux has
			n, err := unix.Fgetxattr(fd, string(name), v)
			if errors.Is(err, unix.ENODATA) {
				continue
			}
			if err != nil {
				return err
			}
			if list == nil {
				list = map[string]string{}
			}
			list[string(name)] = string(v[:n])
		}
		return nil
	})
	return list, err
}

// setAttribute gives a file an extended attribute.
func setAttribute(file *os.File, name, v string) error {
	return control(file, func(fd int) error { return unix.Fsetxattr(fd, name, []byte(v), 0) })
}

// setLinkTime sets the time of a link in an open directory.
func setLinkTime(dir *os.File, name string, sec int64, nano int) error {
	return control(dir, func(fd int) error {
		t := unix.Timespec{Sec: sec, Nsec: int64(nano)}
		return unix.UtimesNanoAt(fd, name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// syncAll makes everything durable that was written to the file system of an open
// directory.
func syncAll(dir *os.File) error {
	return control(dir, unix.Syncfs)
}

// exchange exchanges two entries of an open directory at once. Where that cannot
// be done the error matches errors.ErrUnsupported.
func exchange(dir *os.File, a, b string) error {
	err := control(dir, func(fd int) error { return unix.Renameat2(fd, a, fd, b, unix.RENAME_EXCHANGE) })
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return errors.Join(err, errors.ErrUnsupported)
	}
	return err
}

// renameNew renames an entry of one open directory into another, where nothing may
// have its name. Where the system cannot see to that the error matches
// errors.ErrUnsupported.
func renameNew(from, to *os.File, name string) error {
	err := control(from, func(fd int) error {
		return control(to, func(fdTo int) error { return unix.Renameat2(fd, name, fdTo, name, unix.RENAME_NOREPLACE) })
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return errors.Join(err, errors.ErrUnsupported)
	}
	return err
}

// free is how many bytes a user may still write to the file system of an open
// directory.
func free(dir *os.File) (n int64, err error) {
	err = control(dir, func(fd int) error {
		var st unix.Statfs_t
		err := unix.Fstatfs(fd, &st)
		n = int64(st.Bavail) * st.Bsize
		return err
	})
	return n, err
}
