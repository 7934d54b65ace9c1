// Package copybin turns rows of COPY text into the binary format of COPY, which
// costs the server a third less to take in. It knows the types that most columns
// have, and of them the values that PostgreSQL usually writes; whatever else
// there is has to go as text.
//
// A row here is a line of COPY text as PostgreSQL writes it under the settings
// of package pg: DateStyle ISO, TimeZone UTC, bytea_output hex.
package copybin

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"net/netip"
	"strconv"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/copytext"
)

// ErrText says that a row cannot be turned into the binary format, or not with
// certainty. Sent as text, the server judges it.
var ErrText = errors.New("a value must be sent as text")

// Enum stands for every enumerated type among the types of a Format: their
// binary format is the label.
const Enum uint32 = 0xffffffff

// Format is the binary format of the rows of one table. It may be used from
// several goroutines.
type Format struct {
	fields []encode
}

// encode appends a value in binary format, without its length, to dst. The text
// has no escapes any more.
type encode func(dst, text []byte) ([]byte, error)

// encoders are the known types, by their OIDs, which are the same in every
// server.
var encoders = map[uint32]encode{
	16:   encodeBool,
	17:   encodeBytea,
	20:   encodeInt(64),
	21:   encodeInt(16),
	23:   encodeInt(32),
	25:   encodeText, // text
	114:  encodeText, // json
	700:  encodeFloat(32),
	701:  encodeFloat(64),
	869:  encodeInet,
	1042: encodeText, // character
	1043: encodeText, // character varying
	1082: encodeDate,
	1114: encodeTimestamp(""),
	1184: encodeTimestamp("+00"),
	1700: encodeNumeric,
	2950: encodeUUID,
	3802: encodeJSONB,
	Enum: encodeText,
}

// New is the format for columns of these types, OIDs of pg_type or Enum; nil if
// one of them is not known.
func New(types []uint32) *Format {
	if len(types) == 0 || len(types) > math.MaxInt16 {
		return nil
	}
	f := &Format{}
	for _, oid := range types {
		e := encoders[oid]
		if e == nil {
			return nil
		}
		f.fields = append(f.fields, e)
	}
	return f
}

// Rows are rows on their way to the server.
type Rows struct {
	format  *Format
	text    []byte
	started bool
	ended   bool
	plain   []byte // a field without its escapes
}

// Rows are those of a piece of COPY text, which must not change until they are
// sent.
func (f *Format) Rows(text []byte) *Rows { return &Rows{format: f, text: text} }

// signature begins binary COPY data; flags and an empty extension follow it.
const signature = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"

// Append appends rows to dst until it is size bytes long or a little longer. Its
// error is io.EOF once there are no more, and ErrText where a row must go as
// text: what was appended before is of no use then.
func (r *Rows) Append(dst []byte, size int) ([]byte, error) {
	if r.ended {
		return dst, io.EOF
	}
	if !r.started {
		r.started = true
		dst = append(dst, signature...)
	}
	for len(dst) < size {
		if len(r.text) == 0 {
			r.ended = true
			return append(dst, 0xff, 0xff), nil
		}
		end := bytes.IndexByte(r.text, '\n')
		if end < 0 {
			return dst, ErrText
		}
		var err error
		if dst, err = r.row(dst, r.text[:end]); err != nil {
			return dst, err
		}
		r.text = r.text[end+1:]
	}
	return dst, nil
}

func (r *Rows) row(dst, line []byte) ([]byte, error) {
	fields := r.format.fields
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(fields)))
	for i, encode := range fields {
		field := line
		end := bytes.IndexByte(line, '\t')
		if last := i == len(fields)-1; last != (end < 0) {
			return dst, ErrText
		}
		if end >= 0 {
			field, line = line[:end], line[end+1:]
		}
		if bytes.IndexByte(field, '\\') >= 0 {
			if string(field) == copytext.Null {
				dst = append(dst, 0xff, 0xff, 0xff, 0xff)
				continue
			}
			var ok bool
			if r.plain, ok = copytext.Unescape(r.plain[:0], field); !ok {
				return dst, ErrText
			}
			field = r.plain
		}
		at := len(dst)
		dst = append(dst, 0, 0, 0, 0)
		var err error
		if dst, err = encode(dst, field); err != nil {
			return dst, err
		}
		binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	}
	return dst, nil
}

func encodeText(dst, text []byte) ([]byte, error) { return append(dst, text...), nil }

func encodeJSONB(dst, text []byte) ([]byte, error) { return append(append(dst, 1), text...), nil }

func encodeBool(dst, text []byte) ([]byte, error) {
	switch string(text) {
	case "t":
		return append(dst, 1), nil
	case "f":
		return append(dst, 0), nil
	}
	return dst, ErrText
}

func encodeBytea(dst, text []byte) ([]byte, error) {
	if !bytes.HasPrefix(text, []byte(`\x`)) {
		return dst, ErrText
	}
	dst, err := hex.AppendDecode(dst, text[2:])
	if err != nil {
		return dst, ErrText
	}
	return dst, nil
}

func encodeUUID(dst, text []byte) ([]byte, error) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return dst, ErrText
	}
	for _, part := range [][]byte{text[:8], text[9:13], text[14:18], text[19:23], text[24:]} {
		var err error
		if dst, err = hex.AppendDecode(dst, part); err != nil {
			return dst, ErrText
		}
	}
	return dst, nil
}

func encodeInt(bits int) encode {
	return func(dst, text []byte) ([]byte, error) {
		n, err := strconv.ParseInt(string(text), 10, bits)
		if err != nil || text[0] == '+' {
			return dst, ErrText
		}
		switch bits {
		case 16:
			return binary.BigEndian.AppendUint16(dst, uint16(n)), nil
		case 32:
			return binary.BigEndian.AppendUint32(dst, uint32(n)), nil
		}
		return binary.BigEndian.AppendUint64(dst, uint64(n)), nil
	}
}

func encodeFloat(bits int) encode {
	return func(dst, text []byte) ([]byte, error) {
		for _, c := range text { // ParseFloat knows words and notations of its own
			if (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c != 'e' {
				return dst, ErrText
			}
		}
		n, err := strconv.ParseFloat(string(text), bits)
		if err != nil {
			return dst, ErrText
		}
		if bits == 32 {
			return binary.BigEndian.AppendUint32(dst, math.Float32bits(float32(n))), nil
		}
		return binary.BigEndian.AppendUint64(dst, math.Float64bits(n)), nil
	}
}

// Families of addresses as PostgreSQL numbers them.
const (
	familyIPv4 = 2
	familyIPv6 = 3
)

func encodeInet(dst, text []byte) ([]byte, error) {
	address, mask, masked := bytes.Cut(text, []byte("/"))
	ip, err := netip.ParseAddr(string(address))
	if err != nil || ip.Zone() != "" {
		return dst, ErrText
	}
	bits := ip.BitLen()
	if masked {
		n, err := strconv.ParseUint(string(mask), 10, 8)
		if err != nil || int(n) > bits {
			return dst, ErrText
		}
		bits = int(n)
	}
	family := byte(familyIPv4)
	if ip.Is6() {
		family = familyIPv6
	}
	raw := ip.AsSlice()
	dst = append(dst, family, byte(bits), 0, byte(len(raw)))
	return append(dst, raw...), nil
}

// digits reads a number of so many digits.
func digits(text []byte) (n int, ok bool) {
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

// epoch is where PostgreSQL begins to count, in days of Unix time.
const epoch = 10957

// days counts a date in the form 2006-01-02, which is all that years from 1 to
// 9999 have.
func days(text []byte) (int64, bool) {
	if len(text) != 10 || text[4] != '-' || text[7] != '-' {
		return 0, false
	}
	year, ok1 := digits(text[:4])
	month, ok2 := digits(text[5:7])
	day, ok3 := digits(text[8:])
	if !ok1 || !ok2 || !ok3 || year < 1 || month < 1 || month > 12 || day < 1 {
		return 0, false
	}
	date := time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC)
	if date.Day() != day {
		return 0, false
	}
	return date.Unix()/86400 - epoch, true
}

func encodeDate(dst, text []byte) ([]byte, error) {
	n, ok := days(text)
	if !ok {
		return dst, ErrText
	}
	return binary.BigEndian.AppendUint32(dst, uint32(int32(n))), nil
}

// encodeTimestamp is for 2006-01-02 15:04:05.999999 and what stands behind it.
func encodeTimestamp(suffix string) encode {
	return func(dst, text []byte) ([]byte, error) {
		text, found := bytes.CutSuffix(text, []byte(suffix))
		if !found || len(text) < 19 || text[10] != ' ' || text[13] != ':' || text[16] != ':' {
			return dst, ErrText
		}
		day, ok := days(text[:10])
		hour, ok1 := digits(text[11:13])
		minute, ok2 := digits(text[14:16])
		second, ok3 := digits(text[17:19])
		if !ok || !ok1 || !ok2 || !ok3 || hour > 23 || minute > 59 || second > 59 {
			return dst, ErrText
		}
		micro := 0
		if fraction := text[19:]; len(fraction) > 0 {
			if fraction[0] != '.' || len(fraction) < 2 || len(fraction) > 7 {
				return dst, ErrText
			}
			if micro, ok = digits(fraction[1:]); !ok {
				return dst, ErrText
			}
			for range 7 - len(fraction) {
				micro *= 10
			}
		}
		n := ((day*24+int64(hour))*60+int64(minute))*60 + int64(second)
		return binary.BigEndian.AppendUint64(dst, uint64(n*1_000_000+int64(micro))), nil
	}
}

// group is how many decimal digits make one digit of a numeric.
const group = 4

// encodeNumeric is for plain decimals: sign, digits, point, digits.
func encodeNumeric(dst, text []byte) ([]byte, error) {
	negative := len(text) > 0 && text[0] == '-'
	if negative {
		text = text[1:]
	}
	whole, fraction, pointed := bytes.Cut(text, []byte("."))
	if len(whole) == 0 || pointed && len(fraction) == 0 || len(whole)+len(fraction) > 1000 {
		return dst, ErrText
	}
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0) // number of digits, weight, sign, scale
	weight := (len(whole)+group-1)/group - 1
	first := len(whole) % group
	var ok bool
	// The digits before the point are grouped from it to the left.
	if first > 0 {
		if dst, ok = appendGroup(dst, whole[:first], 0); !ok {
			return dst, ErrText
		}
	}
	for part := whole[first:]; len(part) > 0; part = part[group:] {
		if dst, ok = appendGroup(dst, part[:group], 0); !ok {
			return dst, ErrText
		}
	}
	for part := fraction; len(part) > 0; {
		n := min(group, len(part))
		if dst, ok = appendGroup(dst, part[:n], group-n); !ok {
			return dst, ErrText
		}
		part = part[n:]
	}
	// Zeros at either end are not written.
	groups := dst[at+8:]
	leading := 0
	for leading < len(groups) && groups[leading] == 0 && groups[leading+1] == 0 {
		leading += 2
	}
	for len(groups) > leading && groups[len(groups)-1] == 0 && groups[len(groups)-2] == 0 {
		groups = groups[:len(groups)-2]
	}
	count := copy(groups, groups[leading:]) / 2
	dst = dst[:at+8+2*count]
	weight -= leading / 2
	sign := uint16(0)
	if count == 0 {
		weight = 0
	} else if negative {
		sign = 0x4000
	}
	binary.BigEndian.PutUint16(dst[at:], uint16(count))
	binary.BigEndian.PutUint16(dst[at+2:], uint16(int16(weight)))
	binary.BigEndian.PutUint16(dst[at+4:], sign)
	binary.BigEndian.PutUint16(dst[at+6:], uint16(len(fraction)))
	return dst, nil
}

// appendGroup appends up to four decimal digits, with so many zeros behind them,
// as one digit of a numeric.
func appendGroup(dst, text []byte, zeros int) ([]byte, bool) {
	n, ok := digits(text)
	for range zeros {
		n *= 10
	}
	return binary.BigEndian.AppendUint16(dst, uint16(n)), ok
}
