package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// Read calls yield for every record of a trail, the oldest first. It does not check
// the chain, and passes over what is no record. A trail that does not exist is an
// error that matches fs.ErrNotExist.
func Read(path string, yield func(Record)) error {
	f, err := openFile(path, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("read audit trail: %w", err)
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if r, ok := whole(bytes.TrimSuffix(line, []byte("\n"))); ok && r.Format <= Format {
			yield(r)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read audit trail: %w", err)
		}
	}
}
