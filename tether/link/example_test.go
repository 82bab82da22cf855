package link_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// job is a tether with one session, "job": what is written to its standard input is its standard output, and it exits with 3.
type job struct {
	tetherv1.TetherService // nil: calls that are not here are not made
	input                  bytes.Buffer
	ended                  chan struct{} // closed by the end of input
}

func (j *job) Info(context.Context, *tetherv1.InfoRequest) (*tetherv1.InfoResponse, error) {
	return &tetherv1.InfoResponse{
		Version: "1.0", Kernel: "6.1.0", Phase: "running", Status: &tetherv1.Status{State: tetherv1.State_RUNNING, StartedUnixNano: 1, Pid: 2},
		Sessions: []string{"job"}, UnixNano: 1700000000000000000,
		SessionInfos: []*tetherv1.SessionInfo{{Session: "job", Pid: 7, StartedUnixNano: 2}},
	}, nil
}

func (j *job) Exec(_ context.Context, r *tetherv1.ExecRequest) (*tetherv1.ExecResponse, error) {
	if r.Session != "job" {
		return nil, link.Refuse(errdefs.ErrAlreadyExists, "session %s exists", r.Session)
	}
	return &tetherv1.ExecResponse{Pid: 7}, nil
}

func (j *job) Wait(context.Context, *tetherv1.WaitRequest) (*tetherv1.WaitResponse, error) {
	return &tetherv1.WaitResponse{Exit: &tetherv1.Exit{Code: 3, UnixNano: 3}}, nil
}

func (j *job) OpenInput(context.Context, string) (io.WriteCloser, error) { return j, nil }

func (j *job) Write(p []byte) (int, error) { return j.input.Write(p) }

func (j *job) Close() error {
	close(j.ended)
	return nil
}

func (j *job) OpenOutput(_ context.Context, id string, _ link.RecordStream, offset int64) (io.ReadCloser, int64, int64, error) {
	if id != "job" {
		return nil, 0, 0, link.Refuse(errdefs.ErrNotFound, "no such session: %s", id)
	}
	<-j.ended
	return io.NopCloser(bytes.NewReader(j.input.Bytes()[offset:])), offset, 0, nil
}

func (j *job) Upload(context.Context, string, io.Reader) error { return errors.ErrUnsupported }

func (j *job) Download(context.Context, string, io.Writer) error { return errors.ErrUnsupported }

func (j *job) Connect(context.Context, string, netip.AddrPort) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

// start serves the job on one end of a connection and returns the other. stop ends it.
func (j *job) start() (host net.Conn, stop func()) {
	j.ended = make(chan struct{})
	host, tether := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = link.Serve(context.Background(), tether, j, slog.New(slog.DiscardHandler))
	}()
	return host, func() { host.Close(); <-served }
}

// A host opens a session on a connection with the tether, here a pipe, and talks to a process.
func ExampleNewClient() {
	conn, stop := new(job).start()
	defer stop()
	ctx := context.Background()
	c, err := link.NewClient(ctx, conn)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	info, _ := c.Tether().Info(ctx, &tetherv1.InfoRequest{})
	fmt.Println("phase:", info.Phase)

	in, _ := c.OpenInput(ctx, "job")
	fmt.Fprintln(in, "said and done")
	_ = in.CloseWrite() // the process reads end of file
	_ = in.Close()
	out, _ := c.OpenOutput(ctx, "job", link.StreamStdout, 0)
	_, _ = io.Copy(os.Stdout, out) // until the process's stream has ended
	res, _ := c.Tether().Wait(ctx, &tetherv1.WaitRequest{Session: "job"})
	fmt.Println("exit code:", res.Exit.Code)
	// Output:
	// phase: running
	// said and done
	// exit code: 3
}

// A refusal has a class for programs and a text for people.
func ExampleRefusal() {
	conn, stop := new(job).start()
	defer stop()
	c, err := link.NewClient(context.Background(), conn)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_, err = c.Tether().Exec(context.Background(), &tetherv1.ExecRequest{Session: "taken"})
	fmt.Println(err, errdefs.IsAlreadyExists(err), errors.Is(err, link.ErrLost))
	// Output: session taken exists true false
}

// Spec and Status travel as JSON in the VM's guestinfo.
func ExampleEncodeSpec() {
	text, err := link.EncodeSpec(&tetherv1.Spec{Hostname: "box", Process: &tetherv1.Process{Args: []string{"sh"}, Tty: true}})
	fmt.Println(text, err)
	// Output: {"hostname":"box","process":{"args":["sh"],"tty":true}} <nil>
}

// The host's side of guestinfo parses a command and answers it.
func ExampleParseCommand() {
	c, err := link.ParseCommand("info-get " + link.KeySpec)
	fmt.Println(c.Name, c.Key, err)
	value, err := link.ParseReply(link.ReplyOK("{}"))
	fmt.Println(value, err)
	_, err = link.ParseReply(link.ReplyError("No value found"))
	fmt.Println(errors.Is(err, link.ErrNoValue))
	// Output:
	// info-get guestinfo.cvm.spec <nil>
	// {} <nil>
	// true
}

// A log is cut behind its last whole record.
func ExampleScanRecords() {
	log := link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Payload: []byte("whole")})
	whole := len(log)
	log = link.AppendRecord(log, link.Record{Stream: link.StreamStderr, Payload: []byte("torn")})
	good, err := link.ScanRecords(bytes.NewReader(log[:len(log)-1]))
	fmt.Println(good == int64(whole), errors.Is(err, io.ErrUnexpectedEOF))
	// Output: true true
}
