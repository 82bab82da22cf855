package qemu

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// BenchmarkMachine measures the way from a client of the supervisor to the guest and back.
func BenchmarkMachine(b *testing.B) {
	g := startGuest(b)
	b.Run("round trip", func(b *testing.B) {
		c := g.dial(portEcho)
		var p [1]byte
		for b.Loop() {
			if _, err := c.Write(p[:]); err != nil {
				b.Fatal(err)
			}
			if _, err := c.Read(p[:]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("dial", func(b *testing.B) {
		for b.Loop() {
			c, err := g.Dial(b.Context(), portEcho)
			if err != nil {
				b.Fatal(err)
			}
			c.Close()
		}
	})
	const bytes = 64 << 20
	b.Run("to guest", func(b *testing.B) {
		b.SetBytes(bytes)
		data := make([]byte, bytes)
		for b.Loop() {
			c := g.dial(portSink)
			if _, err := c.Write(data); err != nil {
				b.Fatal(err)
			}
			c.CloseWrite()
			io.Copy(io.Discard, c)
		}
	})
	b.Run("from guest", func(b *testing.B) {
		b.SetBytes(bytes)
		for b.Loop() {
			c := g.dial(portSource)
			fmt.Fprint(c, bytes)
			c.CloseWrite()
			if n, err := io.Copy(io.Discard, c); err != nil || n != bytes {
				b.Fatal(n, err)
			}
		}
	})
	supervisor, qemu := machinePIDs(b, g.spec.RunDir)
	for name, pid := range map[string]int{"supervisor": supervisor, "QEMU": qemu} {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			b.Fatal(err)
		}
		for line := range strings.Lines(string(status)) {
			if strings.HasPrefix(line, "Rss") || strings.HasPrefix(line, "Private_Dirty") {
				b.Logf("%s %s", name, line)
			}
		}
	}
}
