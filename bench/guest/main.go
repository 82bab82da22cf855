// Guest is the program that the benchmark runs in a container: a static binary whose own work is next to nothing.
//
//	bench true         do nothing
//	bench source N     write N bytes to standard output
//	bench serve PORT   on vsock, until killed: answer each byte ('p': with it; 's': with sourceBytes bytes;
//	                   'x': with it, when a "bench true" that it starts has ended; 'u': with it, after sourceBytes bytes more)
//	bench listen ADDRESS
//	                   the same on a TCP address
//	bench dial ADDRESS WAY
//	                   ask who listens there: 'p' for round trips, 's' or 'u' for bytes one way; print the microseconds, of one round trip
//	bench proxy PORT ADDRESS PROGRAM...
//	                   start the program, and pass connections to the vsock port on to the TCP address where it listens
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"

	"github.com/mdlayher/vsock"
)

// anyCID is VMADDR_CID_ANY (linux/vm_sockets.h): to ask for the own CID needs /dev/vsock, which a container has not.
const anyCID = 1<<32 - 1

// sourceBytes is what a peer gets that asks for 's'; bench knows the same number.
const sourceBytes = 64 << 20

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench guest:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "true":
		return nil
	case len(args) == 2 && args[0] == "source":
		n, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return err
		}
		return source(os.Stdout, n)
	case len(args) == 2 && args[0] == "serve":
		port, err := strconv.ParseUint(args[1], 10, 32)
		if err != nil {
			return err
		}
		return serve(uint32(port))
	case len(args) == 2 && args[0] == "listen":
		l, err := net.Listen("tcp", args[1])
		if err != nil {
			return err
		}
		return serveOn(l)
	case len(args) == 3 && args[0] == "dial":
		took, err := dial(args[1], args[2])
		if err == nil {
			fmt.Println(took.Microseconds())
		}
		return err
	case len(args) >= 4 && args[0] == "proxy":
		port, err := strconv.ParseUint(args[1], 10, 32)
		if err != nil {
			return err
		}
		return proxy(uint32(port), args[2], args[3:])
	}
	return fmt.Errorf("unknown command %q", args)
}

func source(w io.Writer, n int64) error {
	chunk := make([]byte, 64<<10)
	for ; n > 0; n -= int64(len(chunk)) {
		if _, err := w.Write(chunk[:min(n, int64(len(chunk)))]); err != nil {
			return err
		}
	}
	return nil
}

func serve(port uint32) error {
	l, err := vsock.ListenContextID(anyCID, port, nil)
	if err != nil {
		return err
	}
	return serveOn(l)
}

func serveOn(l net.Listener) error {
	fmt.Println("ready")
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go answer(conn)
	}
}

// answer ends with the connection.
func answer(conn net.Conn) {
	defer conn.Close()
	ask := make([]byte, 1)
	for {
		if _, err := io.ReadFull(conn, ask); err != nil {
			return
		}
		if reply(conn, ask) != nil {
			return
		}
	}
}

func reply(conn net.Conn, ask []byte) error {
	switch ask[0] {
	case 's':
		return source(conn, sourceBytes)
	case 'u':
		if _, err := io.CopyN(io.Discard, conn, sourceBytes); err != nil {
			return err
		}
	case 'x':
		if err := exec.Command("/proc/self/exe", "true").Run(); err != nil {
			return err
		}
	}
	_, err := conn.Write(ask)
	return err
}
