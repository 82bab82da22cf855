package vsock

import (
	"io"
	"testing"
)

// BenchmarkStream measures two devices that are joined by rings in memory: what a packet costs without QEMU and guest.
func BenchmarkStream(b *testing.B) {
	b.Run("round trip", benchmarkRoundTrip)
	b.Run("one way", benchmarkOneWay)
	b.Run("dial", benchmarkDial)
}

func benchmarkRoundTrip(b *testing.B) {
	x, y, _ := pair(b)
	defer x.Close()
	go func() { _, _ = io.Copy(y, y) }()
	var p [1]byte
	b.ReportAllocs()
	for b.Loop() {
		if _, err := x.Write(p[:]); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(x, p[:]); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkOneWay(b *testing.B) {
	x, y, _ := pair(b)
	defer x.Close()
	const piece = 1 << 20
	data, sink := make([]byte, piece), make([]byte, piece)
	done := make(chan error, 1)
	b.SetBytes(piece)
	b.ReportAllocs()
	for b.Loop() {
		go func() {
			_, err := io.ReadFull(y, sink)
			done <- err
		}()
		if _, err := x.Write(data); err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkDial(b *testing.B) {
	a, h, _, _ := nullModem(b)
	l, err := h.Listen(9)
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		c, err := a.Dial(b.Context(), 9)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}
