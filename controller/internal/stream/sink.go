package stream

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/moby/moby/api/pkg/stdcopy"

	"github.com/containervm/containervm/tether/link"
)

// Sink takes a process's output.
type Sink interface {
	Write(which link.RecordStream, p []byte) error
	// Fail says that the output is not whole, and why. It is the last word.
	Fail(why string) error
}

// NewSink writes output to w: raw for a terminal, else in Docker's frames.
func NewSink(w io.Writer, tty bool) Sink {
	if tty {
		return rawSink{w}
	}
	return &frameSink{w: w}
}

type rawSink struct{ w io.Writer }

func (s rawSink) Write(_ link.RecordStream, p []byte) error {
	_, err := s.w.Write(p)
	return err
}

func (s rawSink) Fail(why string) error {
	_, err := io.WriteString(s.w, "\r\n"+why+"\r\n")
	return err
}

// frameHeader is the length of a frame's header: stream, three zero bytes, length (package stdcopy of
// github.com/moby/moby/api).
const frameHeader = 8

// frameSink writes frames, each whole: stdout and stderr come from two goroutines.
type frameSink struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *frameSink) Write(which link.RecordStream, p []byte) error { return s.write(stdType(which), p) }

// Fail implements Sink: in Docker's own way, of which some clients make an error and others nothing, and as standard error for those.
func (s *frameSink) Fail(why string) error {
	return errors.Join(s.write(stdcopy.Stderr, []byte(why+"\n")), s.write(stdcopy.Systemerr, []byte(why)))
}

func (s *frameSink) write(which stdcopy.StdType, p []byte) error {
	var head [frameHeader]byte
	head[0] = byte(which)
	binary.BigEndian.PutUint32(head[4:], uint32(len(p)))
	s.mu.Lock()
	defer s.mu.Unlock()
	frame := net.Buffers{head[:], p} // one writev on a connection
	_, err := frame.WriteTo(s.w)
	return err
}

func stdType(s link.RecordStream) stdcopy.StdType {
	if s == link.StreamStderr {
		return stdcopy.Stderr
	}
	return stdcopy.Stdout
}

// selection says which streams are wanted.
type selection struct{ stdout, stderr bool }

func (s selection) has(which link.RecordStream) bool {
	return which == link.StreamStdout && s.stdout || which == link.StreamStderr && s.stderr
}
