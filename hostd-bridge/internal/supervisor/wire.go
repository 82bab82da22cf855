package supervisor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
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
	opAttach = "attach"
	opDetach = "detach"
	opPause  = "pause"
	opResume = "resume"
	opReset  = "reset"
	opKill   = "kill"   // the reply comes when QEMU is gone
	opMemory = "memory" // a frame of Memory
	opQEMU   = "qemu"   // a frame with QEMU's process ID
	opPlug   = "plug"   // Disk
	opUnplug = "unplug" // the disk with the unit number of Disk
	opSetNIC = "setNIC" // what the card in Slot is from now on: Card
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
	Path   string            `json:"path,omitempty"`
	To     NewDisks          `json:"to,omitzero"`
	Disk   Disk              `json:"disk,omitzero"`
	Slot   int               `json:"slot,omitempty"`
	Card   Card              `json:"card,omitzero"`
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

// sendFiles passes files over the connection, with one byte (unix(7), SCM_RIGHTS).
func sendFiles(c *net.UnixConn, files ...*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	_, _, err := c.WriteMsgUnix([]byte{byte(len(files))}, unix.UnixRights(fds...), nil)
	return err
}

// receiveFiles takes n files that sendFiles has sent.
func receiveFiles(c *net.UnixConn, n int) ([]*os.File, error) {
	rights := make([]byte, unix.CmsgSpace(4*n))
	_, got, _, _, err := c.ReadMsgUnix(make([]byte, 1), rights)
	if err != nil {
		return nil, fmt.Errorf("cannot receive %d files: %w", n, err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:got])
	if err != nil || len(messages) == 0 {
		return nil, fmt.Errorf("cannot receive %d files: none came: %w", n, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, fmt.Errorf("cannot receive %d files: %w", n, err)
	}
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		unix.CloseOnExec(fd)
		files[i] = os.NewFile(uintptr(fd), "received")
	}
	if len(files) != n {
		closeAll(files)
		return nil, fmt.Errorf("cannot receive %d files: %d came", n, len(files))
	}
	return files, nil
}

// closeAll closes files; nil is none.
func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
