// As draw.py.
package main

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"time"
)

func hello() string {
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() { _ = tls.Client(theirs, &tls.Config{ServerName: "example.org"}).Handshake() }() // ends with the pipe
	b := make([]byte, 43)
	_, _ = io.ReadFull(ours, b)
	return fmt.Sprintf("%x", b[11:])
}

func main() {
	draws := []struct {
		name string
		draw func() string
	}{
		{"crypto/rand", func() string { b := make([]byte, 16); rand.Read(b); return fmt.Sprintf("%x", b) }},
		{"rand.Int", func() string { n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128)); return n.String() }},
		{"math/rand/v2", func() string { return fmt.Sprint(mathrand.Uint64()) }},
		{"TLS hello", hello},
	}
	generation := func() string { b, _ := os.ReadFile("/dev/cvm/generation"); return string(b) }
	for _, d := range draws {
		d.draw()
	}
	was := generation()
	fmt.Println("ready")
	for generation() == was {
		time.Sleep(20 * time.Millisecond)
	}
	for _, d := range draws {
		fmt.Println("drew", d.name, "=", d.draw())
	}
	time.Sleep(1000 * time.Second)
}
