package link_test

import (
	"io"
	"net"
	"testing"

	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

const benchmarkBytes = 64 << 20

// BenchmarkOutput reads a process's output over a session; BenchmarkRaw is the same socket pair without one.
func BenchmarkOutput(b *testing.B) {
	f := linktest.NewTether(b)
	content := linktest.Pattern(0, 1<<20)
	f.Program("flood", func(p *linktest.Process) *tetherv1.Exit {
		for range benchmarkBytes / len(content) {
			_, _ = p.Stdout.Write(content)
		}
		return linktest.Exited(0)
	})
	<-f.Start(&tetherv1.Process{Args: []string{"true"}}).Done()
	c := f.Client()
	if _, err := c.Tether().Exec(b.Context(), &tetherv1.ExecRequest{
		Session: "flood", Process: &tetherv1.Process{Args: []string{"flood"}}, AttachStdout: true,
	}); err != nil {
		b.Fatal(err)
	}
	<-f.Process("flood").Done()
	b.SetBytes(benchmarkBytes)
	for b.Loop() {
		out, err := c.OpenOutput(b.Context(), "flood", link.StreamStdout, 0)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, out); n != benchmarkBytes || err != nil {
			b.Fatalf("%d bytes, %v", n, err)
		}
		out.Close()
	}
}

func BenchmarkRaw(b *testing.B) {
	r, w := linktest.SocketPair(b)
	content := linktest.Pattern(0, 64<<10)
	b.SetBytes(benchmarkBytes)
	for b.Loop() {
		go func(w net.Conn) {
			for range benchmarkBytes / len(content) {
				_, _ = w.Write(content)
			}
		}(w)
		if _, err := io.CopyN(io.Discard, r, benchmarkBytes); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCall is one call on the control stream.
func BenchmarkCall(b *testing.B) {
	c := linktest.NewTether(b).Client()
	for b.Loop() {
		if _, err := c.Tether().Info(b.Context(), &tetherv1.InfoRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRoundTrip is one byte each way over the same kind of socket pair.
func BenchmarkRoundTrip(b *testing.B) {
	near, far := linktest.SocketPair(b)
	go func() { _, _ = io.Copy(far, far) }()
	p := []byte{0}
	for b.Loop() {
		if _, err := near.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(near, p); err != nil {
			b.Fatal(err)
		}
	}
}
