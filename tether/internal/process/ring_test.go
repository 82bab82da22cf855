package process

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
)

func write(t *testing.T, r *Ring, p []byte) {
	t.Helper()
	if _, err := r.ReadFrom(bytes.NewReader(p)); err != nil {
		t.Fatal(err)
	}
}

func sequence(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * 7 >> 3)
	}
	return p
}

func TestRingKeepsTheNewest(t *testing.T) {
	text := sequence(3*ringStart + 100)
	r := NewRing(ringStart)
	write(t, r, text)
	r.End()
	reader, err := r.Reader(0, false)
	must(t, err)
	got, err := io.ReadAll(reader)
	must(t, err)
	if lost := len(text) - ringStart; reader.Dropped() != int64(lost) || reader.First() != int64(lost) || !bytes.Equal(got, text[lost:]) {
		t.Errorf("dropped %d, first %d, read %d bytes", reader.Dropped(), reader.First(), len(got))
	}
	if _, err := r.Reader(int64(len(text))+1, false); err == nil {
		t.Error("offset beyond the end was taken")
	}
	again, err := r.Reader(int64(len(text))-5, false)
	must(t, err)
	if tail, _ := io.ReadAll(again); !bytes.Equal(tail, text[len(text)-5:]) {
		t.Errorf("resumed with %q", tail)
	}
}

func TestRingGrowsOnlyAsNeeded(t *testing.T) {
	r := NewRing(RingSize)
	write(t, r, sequence(100))
	if r.Memory() != ringStart {
		t.Errorf("100 bytes take %d", r.Memory())
	}
	write(t, r, sequence(2*RingSize))
	if r.Memory() != RingSize {
		t.Errorf("a full ring takes %d", r.Memory())
	}
}

func TestRingWaitsForAHolder(t *testing.T) {
	r := NewRing(ringStart)
	reader, err := r.Reader(0, true)
	must(t, err)
	text := sequence(10*ringStart + 3)
	go func() {
		_, _ = r.ReadFrom(bytes.NewReader(text))
		r.End()
	}()
	got, err := io.ReadAll(reader)
	must(t, err)
	if !bytes.Equal(got, text) || reader.Dropped() != 0 {
		t.Errorf("read %d of %d bytes, dropped %d", len(got), len(text), reader.Dropped())
	}
}

func TestRingReaderCloseEndsRead(t *testing.T) {
	r := NewRing(ringStart)
	reader, err := r.Reader(0, true)
	must(t, err)
	done := make(chan error)
	go func() {
		_, err := reader.Read(make([]byte, 1))
		done <- err
	}()
	must(t, reader.Close())
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed reader: %v", err)
	}
	write(t, r, sequence(3*ringStart)) // would wait for ever if the reader still held
}

// FuzzRing holds what a ring says against a plain slice.
func FuzzRing(f *testing.F) {
	f.Add([]byte{10, 200, 3}, uint16(5))
	f.Add([]byte{255, 255, 255, 255, 255}, uint16(4000))
	f.Fuzz(func(t *testing.T, sizes []byte, at uint16) {
		r := NewRing(ringStart)
		var text []byte
		for i, s := range sizes {
			part := bytes.Repeat([]byte{byte(i)}, int(s)*17)
			text = append(text, part...)
			write(t, r, part)
		}
		r.End()
		reader, err := r.Reader(int64(at), false)
		if int(at) > len(text) {
			if err == nil {
				t.Fatal("offset beyond the end was taken")
			}
			return
		}
		must(t, err)
		got, err := io.ReadAll(reader)
		must(t, err)
		first := int(reader.First())
		if first-int(at) != int(reader.Dropped()) || !bytes.Equal(got, text[first:]) {
			t.Fatalf("from %d: first %d, dropped %d, read %d of %d", at, first, reader.Dropped(), len(got), len(text))
		}
	})
}
