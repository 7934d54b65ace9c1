package repo

import (
	"fmt"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
)

// BenchmarkData writes data files of a small tenant and of a big one, each made
// durable.
func BenchmarkData(b *testing.B) {
	for _, size := range []int{100 << 10, 64 << 20} {
		b.Run(fmt.Sprint(size>>10, "KiB"), func(b *testing.B) {
			s, err := local.New(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			w, err := Open(s, Options{}).NewBackup(b.Context(), manifest.Full)
			if err != nil {
				b.Fatal(err)
			}
			defer w.Abort(b.Context())
			piece := make([]byte, min(size, 1<<20))
			b.SetBytes(int64(size))
			n := 0
			for b.Loop() {
				n++
				d, err := w.CreateData(b.Context(), fmt.Sprint("tenant", n), "", manifest.Full, ".sql.zst")
				if err != nil {
					b.Fatal(err)
				}
				for written := 0; written < size; written += len(piece) {
					if _, err := d.Write(piece); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := d.Commit(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCatalog lists a thousand backups of a hundred schemas.
func BenchmarkCatalog(b *testing.B) {
	dir := b.TempDir()
	manyManifests(b, dir, 1000, 100, 5, false)
	s, err := local.New(dir)
	if err != nil {
		b.Fatal(err)
	}
	r := Open(s, Options{})
	if _, err := r.Catalog(b.Context()); err != nil { // writes the index
		b.Fatal(err)
	}
	for b.Loop() {
		if list, err := r.Catalog(b.Context()); err != nil || len(list) != 1000 {
			b.Fatal(len(list), err)
		}
	}
}
