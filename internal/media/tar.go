package media

import (
	"encoding/base64"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// block is the unit of tar files.
const block = 512

// The types of members.
const (
	tarFile     = '0'
	tarHard     = '1'
	tarLink     = '2'
	tarFolder   = '5'
	tarExtended = 'x'
)

// header is the member of an entry without its contents: an extended header with
// what the plain one has no room for, such as nanoseconds, the plain one, and the
// map of a sparse file, in the form of GNU tar called PAX 1.0.
//
// The archive/tar of the standard library writes no sparse files.
func header(e *Entry) []byte {
	name, kind, size := e.Name, byte(tarFile), int64(0)
	var sparse []byte
	records := map[string]string{}
	switch e.Kind {
	case KindFolder:
		kind, name = tarFolder, strings.TrimSuffix(name, "/")+"/"
	case KindLink:
		kind = tarLink
	case KindHard:
		kind = tarHard
	default:
		size = e.Stored()
		if e.Extents != nil {
			sparse = sparseMap(e)
			size += int64(len(sparse))
			records["GNU.sparse.major"], records["GNU.sparse.minor"] = "1", "0"
			records["GNU.sparse.name"], records["GNU.sparse.realsize"] = name, strconv.FormatInt(e.Size, 10)
			name = path.Join(path.Dir(name), "GNUSparseFile.0", path.Base(name))
		}
	}
	records["mtime"] = stamp(e)
	for key, v := range e.Attributes {
		records["SCHILY.xattr."+key] = v
	}
	b := make([]byte, block)
	text := func(at, room int, record, s string) {
		if len(s) > room || !plain(s) {
			records[record] = s
		}
		copy(b[at:at+room], s)
	}
	text(0, 100, "path", name)
	text(157, 100, "linkpath", e.Link)
	text(265, 31, "uname", e.User)
	text(297, 31, "gname", e.Group)
	number := func(at, digits int, record string, n int64) {
		if n < 0 || n >= 1<<(3*digits) {
			if record != "" {
				records[record] = strconv.FormatInt(n, 10)
			}
			n = 0
		}
		copy(b[at:], fmt.Sprintf("%0*o", digits, n))
	}
	number(100, 7, "", int64(e.Mode))
	number(108, 7, "uid", int64(e.UID))
	number(116, 7, "gid", int64(e.GID))
	number(124, 11, "size", size)
	number(136, 11, "", e.Time.Unix())
	b[156] = kind
	return slices.Concat(extended(e.Name, records), seal(b), sparse)
}

// seal completes a plain header.
func seal(b []byte) []byte {
	copy(b[257:], "ustar\x0000")
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// plain reports whether a text needs no extended header for its characters.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// stamp is the time of an entry in seconds with a fraction.
func stamp(e *Entry) string {
	sec, nano := e.Time.Unix(), e.Time.Nanosecond()
	sign := ""
	if sec < 0 && nano > 0 { // -1.5 is a second and a half before the epoch, not -2 and a half more
		sign, sec, nano = "-", -sec-1, 1_000_000_000-nano
	}
	return fmt.Sprintf("%s%d.%09d", sign, sec, nano)
}

// extended is an extended header.
func extended(name string, records map[string]string) []byte {
	var body strings.Builder
	// Without it bsdtar would change names that are not UTF-8. GNU tar takes them
	// as they are, and says that it does not know the record.
	for _, key := range []string{"path", "linkpath", "uname", "gname", "GNU.sparse.name"} {
		if !utf8.ValidString(records[key]) {
			records["hdrcharset"] = "BINARY"
		}
	}
	for _, key := range slices.Sorted(maps.Keys(records)) {
		body.WriteString(record(key, records[key]))
	}
	b := make([]byte, block)
	short := "PaxHeaders.0/" + path.Base(name)
	if !plain(short) {
		short = "PaxHeaders.0/" + base64.RawURLEncoding.EncodeToString([]byte(path.Base(name)))
	}
	copy(b[:100], short)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:], fmt.Sprintf("%011o", body.Len()))
	copy(b[136:], "00000000000")
	b[156] = tarExtended
	return append(seal(b), padded(body.String())...)
}

// record is one line of an extended header, which begins with its own length.
func record(key, value string) string {
	rest := len(" =\n") + len(key) + len(value)
	n := rest + len(strconv.Itoa(rest))
	n = rest + len(strconv.Itoa(n))
	return strconv.Itoa(n) + " " + key + "=" + value + "\n"
}

// sparseMap says which parts of a file follow. The last one is empty, at the end
// of the file, where that is a hole.
func sparseMap(e *Entry) []byte {
	list := e.Extents
	if n := len(list); n == 0 || list[n-1].Offset+list[n-1].Length < e.Size {
		list = append(slices.Clip(list), Extent{Offset: e.Size})
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%d\n", len(list))
	for _, x := range list {
		fmt.Fprintf(&s, "%d\n%d\n", x.Offset, x.Length)
	}
	return padded(s.String())
}

// padded fills the last block.
func padded(s string) []byte {
	return append([]byte(s), make([]byte, padding(int64(len(s))))...)
}

// padding is how many bytes fill the last block of so many.
func padding(n int64) int64 { return (block - n%block) % block }
