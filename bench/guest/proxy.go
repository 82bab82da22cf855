package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/mdlayher/vsock"
)

// proxy ends with the program.
func proxy(port uint32, address string, program []string) error {
	l, err := vsock.ListenContextID(anyCID, port, nil)
	if err != nil {
		return err
	}
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := listening(address); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	fmt.Println("ready")
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go pass(conn, address)
		}
	}()
	return errors.Join(cmd.Wait(), l.Close())
}

// listening waits until someone listens at the address, which has no event to wait for.
func listening(address string) (err error) {
	for range 500 {
		var conn net.Conn
		if conn, err = net.Dial("tcp", address); err == nil {
			return conn.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// pass copies both ways until either side ends.
func pass(conn net.Conn, address string) {
	defer conn.Close()
	to, err := net.Dial("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench guest:", err)
		return
	}
	defer to.Close()
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{conn, to}, {to, conn}} {
		go func() {
			io.Copy(way[0], way[1]) // the end of either ends both, whatever its reason
			ended <- struct{}{}
		}()
	}
	<-ended
}
