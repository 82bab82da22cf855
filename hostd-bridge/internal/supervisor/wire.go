package supervisor

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// maxFrame bounds a frame, in bytes: a machine's guestinfo fits.
const maxFrame = 16 << 20

// Operations of a request. Each has a connection of its own. The reply is one frame; what follows it depends.
const (
	opEvents = "events" // frames of Event, until Exit
	opSet    = "set"    // guestinfo
	opDial   = "dial"   // the bytes of a vsock connection, both ways
	opLog    = "log"    // records of the log
	opSetLog = "setLog" // Log: how much of the log is kept
	opAttach = "attach" // Image
	opDetach = "detach"
	opPause  = "pause"
	opResume = "resume"
	opReset  = "reset"
	opKill   = "kill"   // the reply comes when QEMU is gone
	opWho    = "who"    // nothing but the reply: the kernel says with it who has sent it
	opMemory = "memory" // a frame of Memory
	opQEMU   = "qemu"   // a frame with QEMU's process ID
	opPlug   = "plug"   // Disk
	opUnplug = "unplug" // the disk with the unit number of Disk
	opSetNIC = "setNIC" // what the card in Slot is from now on: Card
	opJoin   = "join"   // the connection with the switch that Card, in Slot, waits for
	// opTemplate: a frame of Hardware and the two files of the machine's fork point follow the reply. A machine that runs is stopped
	// for a moment, and To is put over its disks.
	opTemplate = "template"
)

type request struct {
	Op     string            `json:"op"`
	Set    map[string]string `json:"set,omitempty"`
	Port   uint32            `json:"port,omitempty"`
	From   int64             `json:"from,omitempty"`
	Follow bool              `json:"follow,omitempty"`
	Hold   bool              `json:"hold,omitempty"`
	Log    hostapi.Log       `json:"log,omitzero"`
	Image  Image             `json:"image,omitzero"`
	To     NewDisks          `json:"to,omitzero"`
	Disk   Disk              `json:"disk,omitzero"`
	Slot   int               `json:"slot,omitempty"`
	Card   Card              `json:"card,omitzero"`

	conn *os.File // of opJoin
}

// files are those that go with the request.
func (r *request) files() []*os.File {
	switch r.Op {
	case opAttach:
		return r.Image.Files
	case opPlug:
		return r.Disk.Image.Files
	case opTemplate:
		return r.To.files()
	case opJoin:
		return []*os.File{r.conn}
	}
	return nil
}

// receive takes the files that came along.
func (r *request) receive(p parcel) error {
	want := 0
	switch r.Op {
	case opAttach:
		want = r.Image.Levels
	case opPlug:
		want = r.Disk.Image.Levels
	case opTemplate:
		return r.To.receive(p)
	case opJoin:
		want = 1
	}
	if err := p.check(want); err != nil {
		return err
	}
	switch r.Op {
	case opAttach:
		r.Image.Files = p.take(want)
	case opPlug:
		r.Disk.Image.Files = p.take(want)
	case opJoin:
		r.conn = p.one()
	}
	return nil
}

type reply struct {
	Error string        `json:"error,omitempty"`
	Errno syscall.Errno `json:"errno,omitempty"` // that Error wraps
	At    int64         `json:"at,omitempty"`    // of opLog: the offset that the records begin with
}

// remoteError is an error that a supervisor reported.
type remoteError struct {
	text  string
	errno syscall.Errno
}

func (e *remoteError) Error() string { return e.text }

func (e *remoteError) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}

func replyTo(err error) reply {
	if err == nil {
		return reply{}
	}
	r := reply{Error: err.Error()}
	errors.As(err, &r.Errno)
	return r
}

func (r reply) err() error {
	if r.Error == "" {
		return nil
	}
	return &remoteError{r.Error, r.Errno}
}

// writeFrame writes v as JSON behind its length, 4 bytes, big-endian.
func writeFrame(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxFrame {
		return fmt.Errorf("cannot send %d bytes: the limit is %d", len(b), maxFrame)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

// readFrame reads what writeFrame wrote, and not a byte more.
func readFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return fmt.Errorf("cannot read frame: %d bytes, the limit is %d", n, maxFrame)
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return err
	}
	if uint32(len(b)) < n {
		return io.ErrUnexpectedEOF
	}
	return json.Unmarshal(b, v)
}

// Of the files that go with a frame (unix(7), SCM_RIGHTS).
const (
	maxFiles   = 4096 // of one frame: more than a machine's disks consist of
	perMessage = 250  // of one message: the kernel passes 253 at most (SCM_MAX_FD)
)

// sendFrame writes v as writeFrame does, and open files with it.
func sendFrame(c *net.UnixConn, v any, files ...*os.File) error {
	var b bytes.Buffer
	if err := writeFrame(&b, v); err != nil {
		return err
	}
	if len(files) > maxFiles {
		return fmt.Errorf("cannot send %d open files: the limit is %d", len(files), maxFiles)
	}
	for len(files) > 0 {
		n := min(len(files), perMessage)
		fds := make([]int, n)
		for i, f := range files[:n] {
			fds[i] = int(f.Fd())
		}
		if _, _, err := c.WriteMsgUnix(b.Next(1), unix.UnixRights(fds...), nil); err != nil {
			return fmt.Errorf("cannot send open files: %w", err)
		}
		runtime.KeepAlive(files)
		files = files[n:]
	}
	_, err := c.Write(b.Bytes())
	return err
}

// receiveFrame reads what sendFrame wrote, and not a byte more. The caller closes the files.
func receiveFrame(c *net.UnixConn, v any) ([]*os.File, error) {
	r := &filesReader{conn: c, oob: make([]byte, unix.CmsgSpace(4*253))}
	if err := readFrame(r, v); err != nil {
		closeAll(r.files)
		return nil, err
	}
	return r.files, nil
}

// filesReader reads from a connection and collects the files that come.
type filesReader struct {
	conn  *net.UnixConn
	oob   []byte
	files []*os.File
}

func (r *filesReader) Read(b []byte) (int, error) {
	n, got, flags, _, err := r.conn.ReadMsgUnix(b, r.oob)
	if err == nil && n == 0 && got == 0 {
		err = io.EOF
	}
	if taken := r.take(r.oob[:got]); err == nil {
		err = taken
	}
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = errors.New("more files came than can be taken")
	}
	return n, err
}

// take takes the files of one message.
func (r *filesReader) take(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("cannot receive files: %w", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fmt.Errorf("cannot receive files: %w", err)
		}
		for _, fd := range fds { // with CLOEXEC: the runtime asks for it
			r.files = append(r.files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if len(r.files) > maxFiles {
		return fmt.Errorf("cannot receive %d files: the limit is %d", len(r.files), maxFiles)
	}
	return nil
}

// parcel are the files that came with a frame, of which each has one taker.
type parcel []*os.File

// take takes the next n files. What is missing is found by end.
func (p *parcel) take(n int) []*os.File {
	taken := make([]*os.File, max(0, min(n, maxFiles)))
	rest := copy(taken, *p)
	*p = (*p)[rest:]
	return taken
}

// one takes the next file; nil: there is none.
func (p *parcel) one() *os.File { return p.take(1)[0] }

// check says whether there are as many files as will be taken.
func (p *parcel) check(want int) error {
	if len(*p) != want {
		return fmt.Errorf("%d open files came, not %d: daemon and supervisor are of different versions", len(*p), want)
	}
	return nil
}

// closeAll closes files; nil is none.
func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
