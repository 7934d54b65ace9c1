package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
)

// object is a file of an earlier backup.
type object struct{ *bytes.Reader }

func (object) Close() error { return nil }

// TestSinkTakesOver gives a sink a frame that was compressed in another way: it
// must be in the file as it is, if it holds the same rows and is whole.
func TestSinkTakesOver(t *testing.T) {
	t.Parallel()
	encoder := func(level int) *datafile.Encoder {
		e, err := datafile.NewEncoder(datafile.Compression{Algorithm: datafile.Zstd, Level: level})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	rows := bytes.Repeat([]byte("some row that is not that short\tand more of it\n"), 40_000)
	table := newCopied(source{schema: "s", name: "a", columns: []string{"b"}}, 1)
	into := table.into()
	write := func(stored *storedRows, segmented bool) ([]byte, *datafile.Index) {
		var out bytes.Buffer
		e := encoder(0)
		file := datafile.NewWriter(&out, datafile.Compression{Algorithm: datafile.Zstd})
		k := &sink{file: file, enc: e, add: func(int64, int64) {}, stored: stored, segmented: segmented}
		k.begin(table)
		for row := range bytes.Lines(rows) {
			if err := k.row(row); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := k.end(); err != nil {
			t.Fatal(err)
		}
		if err := k.endFrame(); err != nil {
			t.Fatal(err)
		}
		x, err := file.Close(e, datafile.Header{})
		if err != nil {
			t.Fatal(err)
		}
		return out.Bytes()[:x.Frames[0].Length], x
	}
	// The frame as level 9 makes it.
	var other bytes.Buffer
	e := encoder(9)
	e.Begin(datafile.DataFrame)
	for _, p := range [][]byte{[]byte(into), rows, []byte(datafile.EndOfRows)} {
		if _, err := e.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	digest := e.Digest()
	if _, err := datafile.NewWriter(&other, datafile.Compression{Algorithm: datafile.Zstd}).Append(e); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(other.Bytes())
	frame := datafile.Frame{Kind: datafile.DataFrame, Length: int64(other.Len()), Size: e.Size(), Hash: digest, Stored: hex.EncodeToString(sum[:])}
	stored := func(b []byte) *storedRows {
		return &storedRows{frames: map[string]datafile.Frame{digest: frame}, object: object{bytes.NewReader(b)}}
	}

	anew, x := write(nil, false)
	if x.Frames[0].Hash != digest || bytes.Equal(anew, other.Bytes()) {
		t.Fatalf("the frame is %+v, want the hash %s and other bytes", x.Frames[0], digest)
	}
	s := stored(other.Bytes())
	if got, x := write(s, false); !bytes.Equal(got, other.Bytes()) || x.Frames[0].Stored != frame.Stored || x.Frames[0].Hash != digest || s.damaged != nil {
		t.Errorf("the stored frame was not taken over: %+v", x.Frames[0])
	}
	if got, x := write(stored(other.Bytes()), true); x.Frames[0].Hash != "" || !bytes.Equal(got, anew) {
		t.Errorf("a frame of a segment: %+v", x.Frames[0])
	}
	damaged := bytes.Clone(other.Bytes())
	damaged[len(damaged)/2] ^= 1
	for name, b := range map[string][]byte{"damaged": damaged, "cut": other.Bytes()[:other.Len()-1]} {
		s := stored(b)
		if got, _ := write(s, false); !bytes.Equal(got, anew) || s.damaged == nil {
			t.Errorf("%s: it was taken over (%v)", name, s.damaged)
		}
	}
	rows[0] ^= 1
	if got, x := write(stored(other.Bytes()), false); x.Frames[0].Hash == digest || bytes.Equal(got, other.Bytes()) {
		t.Errorf("other rows were taken for the stored ones: %+v", x.Frames[0])
	}
}
