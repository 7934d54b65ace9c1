package repo

import (
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/zeebo/xxh3"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// The index holds manifests in a form that is read a hundred times faster than
// JSON: every string once, in a table, numbers as varints, and each entry that is
// the same as in the manifest before as one byte. It is made from the types by
// reflection, so that no field can be forgotten; an index of other types, of
// another version of this program, has another signature and is not read.

// indexed is a manifest in the index with what tells whether it is still the one
// that is listed.
type indexed struct {
	Key      string
	Size     int64
	Modified int64 // nanoseconds
	Manifest *manifest.Manifest
}

const indexMagic = "tenantkeep index\n"

// signature names the shape of what is indexed.
var signature = sync.OnceValue(func() string {
	var b strings.Builder
	describe(&b, reflect.TypeFor[manifest.Manifest](), nil)
	return fmt.Sprintf("%016x", xxh3.HashString("1\n"+b.String()))
})

// describe writes down a type, with its fields.
func describe(b *strings.Builder, t reflect.Type, above []reflect.Type) {
	fmt.Fprintf(b, "%s %s", t, t.Kind())
	if isText(t) || slices.Contains(above, t) {
		return
	}
	above = append(above, t)
	switch t.Kind() {
	case reflect.Struct:
		for f := range t.Fields() {
			fmt.Fprintf(b, "{%s ", f.Name)
			describe(b, f.Type, above)
			b.WriteByte('}')
		}
	case reflect.Pointer, reflect.Slice:
		describe(b, t.Elem(), above)
	}
}

var (
	textType   = reflect.TypeFor[encoding.TextMarshaler]()
	schemaType = reflect.TypeFor[[]manifest.Schema]()
)

// isText reports whether values of a type are indexed in their text form, which
// times are.
func isText(t reflect.Type) bool {
	return t.Implements(textType) && reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// encoder writes an index.
type encoder struct {
	out     []byte
	strings map[string]uint64
	table   []byte
	entries [][]byte // of the manifest before
}

func encodeIndex(list []indexed) ([]byte, error) {
	e := &encoder{strings: map[string]uint64{"": 0}}
	e.out = binary.AppendUvarint(e.out, uint64(len(list)))
	for _, x := range list {
		e.string(x.Key)
		e.out = binary.AppendVarint(e.out, x.Size)
		e.out = binary.AppendVarint(e.out, x.Modified)
		if err := e.value(reflect.ValueOf(x.Manifest).Elem()); err != nil {
			return nil, fmt.Errorf("index %s: %w", x.Key, err)
		}
	}
	body := binary.AppendUvarint(nil, uint64(len(e.strings)-1))
	body = append(append(body, e.table...), e.out...)
	head := append([]byte(indexMagic), signature()...)
	return append(binary.LittleEndian.AppendUint64(head, xxh3.Hash(body)), body...), nil
}

func (e *encoder) string(s string) {
	place, ok := e.strings[s]
	if !ok {
		place = uint64(len(e.strings))
		e.strings[s] = place
		e.table = append(binary.AppendUvarint(e.table, uint64(len(s))), s...)
	}
	e.out = binary.AppendUvarint(e.out, place)
}

func (e *encoder) value(v reflect.Value) error {
	switch t := v.Type(); {
	case t == schemaType:
		return e.schemas(v)
	case isText(t):
		if v.IsZero() {
			e.string("")
			return nil
		}
		text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
		e.string(string(text))
		return err
	}
	switch v.Kind() {
	case reflect.String:
		e.string(v.String())
	case reflect.Int, reflect.Int32, reflect.Int64:
		e.out = binary.AppendVarint(e.out, v.Int())
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		e.out = binary.AppendUvarint(e.out, v.Uint())
	case reflect.Bool:
		e.bool(v.Bool())
	case reflect.Struct:
		for i := range v.NumField() {
			if err := e.value(v.Field(i)); err != nil {
				return err
			}
		}
	case reflect.Pointer:
		e.bool(!v.IsNil())
		if !v.IsNil() {
			return e.value(v.Elem())
		}
	case reflect.Slice:
		e.length(v)
		for i := range v.Len() {
			if err := e.value(v.Index(i)); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("no form for a %s", v.Type())
	}
	return nil
}

func (e *encoder) bool(b bool) {
	if b {
		e.out = append(e.out, 1)
	} else {
		e.out = append(e.out, 0)
	}
}

// length writes one more than the length of a slice, 0 for none at all.
func (e *encoder) length(v reflect.Value) {
	n := 0
	if !v.IsNil() {
		n = v.Len() + 1
	}
	e.out = binary.AppendUvarint(e.out, uint64(n))
}

// schemas writes entries, or that they are those of the manifest before.
func (e *encoder) schemas(v reflect.Value) error {
	e.length(v)
	whole := e.out
	entries := make([][]byte, 0, v.Len())
	for i := range v.Len() {
		e.out = nil
		if err := e.value(v.Index(i)); err != nil {
			return err
		}
		entries = append(entries, e.out)
		if i < len(e.entries) && string(e.entries[i]) == string(e.out) {
			whole = append(whole, 1)
		} else {
			whole = append(append(whole, 0), e.out...)
		}
	}
	e.out, e.entries = whole, entries
	return nil
}

// errIndex says that an index is not one, or is damaged.
var errIndex = errors.New("the index is damaged")

// decoder reads an index. After the first error it reads zeros.
type decoder struct {
	in      string
	failed  bool
	strings []string
	entries []manifest.Schema // of the manifest before
	forms   map[reflect.Type]*form
}

// form is how to read a type.
type form struct {
	kind   reflect.Kind
	text   bool
	fields []*form
	elem   *form
}

func decodeIndex(in string) ([]indexed, error) {
	head := len(indexMagic) + len(signature())
	if len(in) < head+8 || in[:head] != indexMagic+signature() {
		return nil, errIndex
	}
	sum, body := binary.LittleEndian.Uint64([]byte(in[head:head+8])), in[head+8:]
	if xxh3.HashString(body) != sum {
		return nil, errIndex
	}
	return decodeBody(body)
}

// decodeBody reads an index without its head.
func decodeBody(body string) ([]indexed, error) {
	d := &decoder{in: body, forms: map[reflect.Type]*form{}}
	n := d.count()
	d.strings = make([]string, 1, n+1)
	for range n {
		length := d.count()
		d.strings = append(d.strings, d.in[:length])
		d.in = d.in[length:]
	}
	form := d.form(reflect.TypeFor[manifest.Manifest]())
	list := make([]indexed, d.count())
	manifests := make([]manifest.Manifest, len(list))
	for i := range list {
		x := &list[i]
		x.Key, x.Size, x.Modified, x.Manifest = d.string(), d.int(), d.int(), &manifests[i]
		d.value(reflect.ValueOf(x.Manifest).Elem(), form)
	}
	if d.failed || d.in != "" {
		return nil, errIndex
	}
	return list, nil
}

func (d *decoder) form(t reflect.Type) *form {
	if f := d.forms[t]; f != nil {
		return f
	}
	f := &form{kind: t.Kind(), text: isText(t)}
	d.forms[t] = f
	switch {
	case f.text:
	case f.kind == reflect.Struct:
		for x := range t.Fields() {
			f.fields = append(f.fields, d.form(x.Type))
		}
	case f.kind == reflect.Pointer || f.kind == reflect.Slice:
		f.elem = d.form(t.Elem())
	}
	return f
}

func (d *decoder) fail() {
	d.failed, d.in = true, ""
}

func (d *decoder) uint() uint64 {
	var n uint64
	for i := range min(len(d.in), binary.MaxVarintLen64) {
		c := d.in[i]
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.in = d.in[i+1:]
			return n
		}
	}
	d.fail()
	return 0
}

func (d *decoder) int() int64 {
	n := d.uint()
	return int64(n>>1) ^ -int64(n&1)
}

// count reads a number of things of which each takes a byte at least.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.in)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) string() string {
	n := d.uint()
	if n >= uint64(len(d.strings)) {
		d.fail()
		return ""
	}
	return d.strings[n]
}

func (d *decoder) bool() bool {
	if d.in == "" {
		d.fail()
		return false
	}
	b := d.in[0]
	d.in = d.in[1:]
	return b != 0
}

func (d *decoder) value(v reflect.Value, f *form) {
	switch {
	case f.text:
		if s := d.string(); s != "" {
			if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
				d.fail()
			}
		}
		return
	case f.kind == reflect.Slice && v.Type() == schemaType:
		d.schemas(v, f)
		return
	}
	switch f.kind {
	case reflect.String:
		v.SetString(d.string())
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(d.int())
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		v.SetUint(d.uint())
	case reflect.Bool:
		v.SetBool(d.bool())
	case reflect.Struct:
		for i, field := range f.fields {
			d.value(v.Field(i), field)
		}
	case reflect.Pointer:
		if d.bool() {
			v.Set(reflect.New(v.Type().Elem()))
			d.value(v.Elem(), f.elem)
		}
	case reflect.Slice:
		if n := d.length(); n >= 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for i := range n {
				d.value(v.Index(i), f.elem)
			}
		}
	}
}

// length reads the length of a slice; -1: there is none.
func (d *decoder) length() int {
	n := d.uint()
	if n > uint64(len(d.in))+1 {
		d.fail()
	}
	if d.failed {
		return -1
	}
	return int(n) - 1
}

func (d *decoder) schemas(v reflect.Value, f *form) {
	n := d.length()
	if n < 0 {
		d.entries = nil
		return
	}
	entries := make([]manifest.Schema, n)
	for i := range entries {
		switch same := d.bool(); {
		case !same:
			d.value(reflect.ValueOf(&entries[i]).Elem(), f.elem)
		case i < len(d.entries):
			entries[i] = d.entries[i]
		default:
			d.fail()
		}
	}
	d.entries = entries
	v.Set(reflect.ValueOf(entries))
}
