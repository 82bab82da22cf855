package vmlog

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
)

// small is a log of three of the smallest files.
func small() hostapi.Log { return hostapi.Log{FileBytes: hostapi.MinLogBytes, Files: 3} }

// openTest opens the log of a run.
func openTest(t *testing.T, dir string, limits hostapi.Log, run hostapi.Run) *Log {
	t.Helper()
	l, err := Open(rootOf(t, dir), limits, hostapi.Marker{Run: run}, time.Unix(int64(run), 0), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

// numbered is a record with a number and some bytes behind it.
func numbered(n int) []byte {
	payload := binary.BigEndian.AppendUint64(nil, uint64(n))
	return link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Payload: append(payload, make([]byte, 10_000)...)})
}

// size is what the files in a directory take, in bytes.
func size(t *testing.T, dir string) (bytes int64, files int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		bytes += info.Size()
	}
	return bytes, len(entries)
}

// reading is what a reader has got.
type reading struct {
	numbers []int
	markers []string
	gap     int64 // in all
	at      int64 // the offset that follows
}

// readAll reads records up to their end.
func readAll(t *testing.T, r io.Reader, from int64) (got reading) {
	t.Helper()
	got.at = from
	records := link.NewRecordReader(r)
	for {
		rec, err := records.Next()
		if err == io.EOF {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		got.at += rec.Length()
		got.gap += rec.Gap()
		switch rec.Stream {
		case link.StreamStdout:
			got.numbers = append(got.numbers, int(binary.BigEndian.Uint64(rec.Payload)))
		case link.StreamRun:
			got.markers = append(got.markers, string(rec.Payload))
		}
	}
}

// inOrder fails the test unless numbers are those from first to last.
func inOrder(t *testing.T, numbers []int, first, last int) {
	t.Helper()
	if len(numbers) != last-first+1 {
		t.Errorf("%d records, want %d to %d", len(numbers), first, last)
		return
	}
	for i, n := range numbers {
		if n != first+i {
			t.Errorf("record %d in the place of %d", n, first+i)
			return
		}
	}
}

// TestRotation: a log takes no more than its files may, the newest output is kept, offsets go on over files and runs, a marker says in each file
// which run it belongs to, and what is gone is told.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, small(), 1)
	const last = 200
	for n := range last + 1 {
		if err := l.append(numbered(n), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		if bytes, files := size(t, dir); bytes > 3*hostapi.MinLogBytes || files > 3 {
			t.Fatalf("%d bytes in %d files after record %d", bytes, files, n)
		}
	}
	var out bytes.Buffer
	if err := l.Copy(t.Context(), &out, l.Place(Reader{})); err != nil {
		t.Fatal(err)
	}
	served := out.String()
	got := readAll(t, &out, 0)
	inOrder(t, got.numbers, last+1-len(got.numbers), last)
	if got.gap == 0 || got.at != l.end() || len(got.numbers) < 24 || strings.Join(got.markers, ",") != "run 1 continued,run 1 continued,run 1 continued" {
		t.Errorf("read %d records, gap %d, up to %d of %d, markers %q", len(got.numbers), got.gap, got.at, l.end(), got.markers)
	}
	out.Reset()
	if err := CopyFiles(&out, dir, 0, false); err != nil || out.String() != served {
		t.Errorf("the files hold something else: %d bytes instead of %d, %v", out.Len(), len(served), err)
	}
	for _, known := range []int64{0, 5, l.end() - int64(len(numbered(0))), l.end(), 1 << 40} {
		if end, err := End(dir, known); err != nil || end != l.end() {
			t.Errorf("known %d: the end is %d, %v, want %d", known, end, err, l.end())
		}
	}
	end := l.end()
	next := openTest(t, dir, small(), 2)
	out.Reset()
	if err := CopyFiles(&out, dir, end, false); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, &out, end); strings.Join(got.markers, ",") != "run 2" || got.at != next.end() {
		t.Errorf("the next run begins with %+v", got)
	}
	out.Reset()
	if err := CopyFiles(&out, dir, 0, true); err != nil || out.String() != served {
		t.Errorf("the first run has %d bytes, want %d, %v", out.Len(), len(served), err)
	}
}

// TestLaggard: a reader whose place was rotated away gets on with the oldest record that is kept, and is told how much it missed.
func TestLaggard(t *testing.T) {
	l := openTest(t, t.TempDir(), small(), 1)
	out, in := io.Pipe()
	place := l.Place(Reader{Follow: true})
	go func() { in.CloseWithError(l.Copy(t.Context(), in, place)) }()
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // it is on its way, with the beginning
		t.Fatal(err)
	}
	const last = 100
	for n := range last + 1 {
		if err := l.append(numbered(n), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	l.Finish()
	got := readAll(t, io.MultiReader(bytes.NewReader([]byte{byte(link.StreamRun)}), out), 0)
	inOrder(t, got.numbers, last+1-len(got.numbers), last)
	if got.gap == 0 || got.at != l.end() {
		t.Errorf("gap %d, up to %d of %d", got.gap, got.at, l.end())
	}
}

// TestHold: nothing is dropped that a reader has yet to get that holds the log; the guest waits for it, until the machine ends.
func TestHold(t *testing.T) {
	for name, limits := range map[string]hostapi.Log{"stored": small(), "one file": {FileBytes: hostapi.MinLogBytes, Files: 1}, "discarded": {Discard: true}} {
		dir := t.TempDir()
		l := openTest(t, dir, limits, 1)
		out, in := io.Pipe()
		place := l.Place(Reader{Follow: true, Hold: true})
		go func() { in.CloseWithError(l.Copy(t.Context(), in, place)) }()
		const last = 300
		wrote := make(chan error, 1)
		go func() {
			var err error
			for n := 0; n <= last && err == nil; n++ {
				err = l.append(numbered(n), time.Unix(1, 0))
			}
			l.Finish()
			wrote <- err
		}()
		got := readAll(t, out, 0)
		inOrder(t, got.numbers, 0, last)
		if got.gap != 0 {
			t.Errorf("%s: %d bytes are missing", name, got.gap)
		}
		if err := <-wrote; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if bytes, _ := size(t, dir); bytes > 3*hostapi.MinLogBytes || limits.Discard && bytes > 0 {
			t.Errorf("%s: %d bytes are stored", name, bytes)
		}
		l.Place(Reader{From: place.Offset, Hold: true}) // one that never reads
		l.LetGo()
		for n := range 100 {
			if err := l.append(numbered(n), time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestLimitsChange: a log goes on with its offsets when less is kept, and when nothing is stored any more; then no file of it is left.
func TestLimitsChange(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, hostapi.Log{}, 1)
	fill := func(from, to int) {
		t.Helper()
		for n := from; n <= to; n++ {
			if err := l.append(numbered(n), time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func() reading {
		t.Helper()
		var out bytes.Buffer
		if err := l.Copy(t.Context(), &out, l.Place(Reader{})); err != nil {
			t.Fatal(err)
		}
		return readAll(t, &out, 0)
	}
	fill(0, 99)
	if bytes, files := size(t, dir); bytes < 1_000_000 || files != 1 {
		t.Errorf("%d bytes in %d files", bytes, files)
	}
	if err := l.SetLimits(hostapi.Log{FileBytes: hostapi.MinLogBytes, Files: 1}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	fill(100, 100)
	if bytes, files := size(t, dir); bytes > hostapi.MinLogBytes || files != 1 {
		t.Errorf("less is to be kept: %d bytes in %d files", bytes, files)
	}
	if got := read(); len(got.numbers) != 1 || got.at != l.end() {
		t.Errorf("read %+v of %d", got, l.end())
	}
	if err := l.SetLimits(hostapi.Log{Discard: true}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	fill(101, 102)
	if _, files := size(t, dir); files != 0 {
		t.Errorf("%d files of a log that is not stored", files)
	}
	if got := read(); got.at != l.end() {
		t.Errorf("read %+v of %d", got, l.end())
	} else {
		inOrder(t, got.numbers, 101, 102)
	}
}

// TestInherit: a fork has the end of its source's log, from however many files, and no more than its own may take.
func TestInherit(t *testing.T) {
	from := t.TempDir()
	l := openTest(t, from, hostapi.Log{FileBytes: 1 << 20, Files: 8}, 1)
	const last = 700
	for n := range last + 1 {
		if err := l.append(numbered(n), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for _, limits := range []hostapi.Log{{}, small(), {Discard: true}} {
		to := t.TempDir()
		if err := Inherit(from, to, limits); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := CopyFiles(&out, to, 0, false); err != nil {
			t.Fatal(err)
		}
		most, _ := limits.Bounds()
		most = min(most, hostapi.InheritedLog)
		if limits.Discard {
			most = 0
		}
		if n := int64(out.Len()); n > most || n < most-11_000 {
			t.Errorf("%+v: %d bytes are inherited", limits, n)
		}
		got := readAll(t, &out, 0)
		inOrder(t, got.numbers, last+1-len(got.numbers), last)
	}
}

// FuzzFiles: whatever is in a log's files, what is read of them are records and gaps, and they can be gone on with.
func FuzzFiles(f *testing.F) {
	one := record("one")
	f.Add(one, append(record("two"), one[:7]...), int64(len(one)), int64(0))
	f.Add(one[:5], record("two"), int64(3), int64(17))
	f.Add([]byte{}, link.AppendRecord(nil, link.Gap(5)), int64(1<<40), int64(1))
	f.Fuzz(func(t *testing.T, first, second []byte, offset, from int64) {
		dir := t.TempDir()
		for at, data := range map[int64][]byte{0: first, max(1, offset&(1<<60-1)): second} {
			if err := os.WriteFile(filepath.Join(dir, hostapi.LogFileAt(at)), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		from &= 1<<61 - 1
		var out bytes.Buffer
		if err := CopyFiles(&out, dir, from, false); err != nil {
			t.Fatal(err)
		}
		if n, _ := Whole(out.Bytes()); n != out.Len() {
			t.Errorf("%q are not records", out.Bytes())
		}
		if err := Inherit(dir, t.TempDir(), hostapi.Log{}); err != nil {
			t.Fatal(err)
		}
		if _, err := End(dir, from); err != nil {
			t.Fatal(err)
		}
		l := openTest(t, dir, small(), 2)
		out.Reset()
		if err := l.Copy(t.Context(), &out, l.Place(Reader{})); err != nil {
			t.Fatal(err)
		}
	})
}
