package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/internal/smalldisk"
)

func put(t *testing.T, key string, value any) Change {
	t.Helper()
	c, err := Put(key, value)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func open(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// Appends at once share syncs, and each has its record on the disk when it returns, also across compactions.
func TestAppendsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for n := range 50 {
				key := fmt.Sprintf("%d/%d", w, n%3)
				if err := j.Commit(put(t, key, strings.Repeat("x", 8000)+fmt.Sprint(n))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	want := documents(j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Sync(); err != nil { // all is on the disk
		t.Error(err)
	}
	if err := j.Commit(put(t, "late", 1)); err == nil {
		t.Error("a closed journal takes a record")
	}
	if got := documents(open(t, path)); len(want) != 24 || !reflect.DeepEqual(got, want) {
		t.Errorf("%d documents were found again, want %d", len(got), len(want))
	}
}

func documents(j *Journal) map[string]string {
	out := map[string]string{}
	for k, v := range j.Documents() {
		out[k] = string(v)
	}
	return out
}

func TestKeepsWhatWasAppended(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path)
	for _, changes := range [][]Change{
		{put(t, "a", 1), put(t, "b", 2)},
		{put(t, "a", 3)},
		{Delete("b"), put(t, "c", "x")},
	} {
		if err := j.Commit(changes...); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Write(put(t, "d", 4)); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": "3", "c": `"x"`, "d": "4"}
	if got := documents(open(t, path)); !reflect.DeepEqual(got, want) {
		t.Errorf("documents %v, want %v", got, want)
	}
}

// Cut at any byte, the journal holds the records that are whole, and takes new ones.
func TestTornTailAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "j")
	j := open(t, path)
	var ends []int64
	for n := range 4 {
		if err := j.Commit(put(t, fmt.Sprint(n), strings.Repeat("v", n*7))); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, j.size)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range data {
		torn := filepath.Join(dir, "torn")
		if err := os.WriteFile(torn, data[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		k := open(t, torn)
		whole := 0
		for _, end := range ends {
			if int64(cut) >= end {
				whole++
			}
		}
		if got := len(k.Documents()); got != whole {
			t.Fatalf("cut at %d: %d documents, want %d", cut, got, whole)
		}
		if err := k.Commit(put(t, "new", true)); err != nil {
			t.Fatal(err)
		}
		if got := len(open(t, torn).Documents()); got != whole+1 {
			t.Fatalf("cut at %d: %d documents after an append, want %d", cut, got, whole+1)
		}
	}
}

// Damage with intact records behind it is no torn tail: what was promised is lost, so the journal does not open.
func TestDamageIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path)
	for n := range 3 {
		if err := j.Commit(put(t, fmt.Sprint(n), n)); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[headerSize+2] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "damaged at byte 0") {
		t.Errorf("error %v", err)
	}
}

func TestCompaction(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path)
	big := strings.Repeat("x", 64<<10)
	if err := j.Write(put(t, "kept", "value")); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if err := j.Write(put(t, "big", big)); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 2<<20 {
		t.Errorf("the file has %d bytes after 40 writes of 64 KiB", info.Size())
	}
	got := documents(open(t, path))
	if got["kept"] != `"value"` || len(got["big"]) != len(big)+2 {
		t.Errorf("documents lost in the compaction: %d", len(got))
	}
}

// A file that fails is replaced by another one with all that was promised; what followed a torn record would be lost at the next start.
func TestFailedFileIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path)
	if err := j.Commit(put(t, "a", 1)); err != nil {
		t.Fatal(err)
	}
	for n, fail := range []func(){
		func() { j.file.Close() },
		func() { j.broken = errors.New("an fsync failed") },
	} {
		fail()
		if err := j.Commit(put(t, fmt.Sprint("b", n), 2)); err != nil {
			t.Errorf("after failure %d: %v", n, err)
		}
	}
	want := map[string]string{"a": "1", "b0": "2", "b1": "2"}
	if got := documents(open(t, path)); !reflect.DeepEqual(got, want) {
		t.Errorf("documents %v, want %v", got, want)
	}
}

// On a full disk removals are written, in what was set aside; a journal for which nothing is left changes nothing, says so, and goes on by
// itself when there is space.
func TestFullDisk(t *testing.T) {
	for _, kind := range smalldisk.Kinds {
		t.Run(kind, func(t *testing.T) {
			dir := smalldisk.Mount(t, kind, 16<<20)
			path := filepath.Join(dir, "journal")
			j := open(t, path)
			for n := range 100 {
				if err := j.Commit(put(t, fmt.Sprint(n), strings.Repeat("x", 5000))); err != nil {
					t.Fatal(err)
				}
			}
			culprit := smalldisk.Fill(t, dir)
			for n := range 100 { // a record of the removal that has begun, and one that deletes
				if err := j.Write(put(t, fmt.Sprint(n), strings.Repeat("y", 5000))); err != nil {
					t.Fatalf("removal %d on a full disk: %v", n, err)
				}
				if err := j.Commit(Delete(fmt.Sprint(n))); err != nil {
					t.Fatalf("removal %d on a full disk: %v", n, err)
				}
				smalldisk.Fill(t, dir) // others take what the journal gives up
			}
			taken := fillJournal(t, j)
			if got := documents(open(t, path)); len(got) != taken {
				t.Errorf("%d documents were read of a full disk, want %d", len(got), taken)
			}
			if err := os.Remove(culprit); err != nil {
				t.Fatal(err)
			}
			if err := j.Commit(put(t, "after", 1)); err != nil {
				t.Errorf("there is space again: %v", err)
			}
			if got := documents(open(t, path)); len(got) != taken+1 {
				t.Errorf("%d documents, want %d", len(got), taken+1)
			}
		})
	}
}

// fillJournal writes documents until one is refused for lack of space, and returns how many were not.
func fillJournal(t *testing.T, j *Journal) (n int) {
	t.Helper()
	for ; n < 10_000; n++ {
		err := j.Commit(put(t, fmt.Sprint("full", n), strings.Repeat("z", 50_000)))
		if errors.Is(err, unix.ENOSPC) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the disk is never full")
	return n
}

func FuzzReadRecord(f *testing.F) {
	whole, err := appendRecord(nil, []Change{{Key: "a", Value: []byte("1")}, Delete("b")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		changes, n, err := readRecord(bytes.NewReader(data))
		if err != nil {
			if err != io.EOF && err != errTorn {
				t.Errorf("unexpected error %v", err)
			}
			return
		}
		if n > int64(len(data)) {
			t.Fatalf("a record of %d bytes in %d", n, len(data))
		}
		again, err := appendRecord(nil, changes)
		if err != nil {
			t.Fatal(err)
		}
		back, _, err := readRecord(bytes.NewReader(again))
		if err != nil || len(back) != len(changes) {
			t.Errorf("round trip: %v, %v", back, err)
		}
	})
}
