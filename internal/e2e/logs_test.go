package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containervm/containervm/internal/vmtest"
)

// testLogsBounded: a container that writes far more than its log may hold: the disk has the bound, logs the end, a follower all that it was in
// time for, and who is attached every byte.
func testLogsBounded(t *testing.T, h *vmtest.Host) {
	script := fmt.Sprintf("yes 0123456789 | head -c %d; echo; echo end", bigBytes)
	bounds := []string{"--log-opt", "max-size=1m", "--log-opt", "max-file=3"}
	hash := sha256.New()
	cmd := h.Command(t.Context(), "docker", append(append([]string{"run", "--name", "bounded"}, bounds...), image, "sh", "-c", script)...)
	cmd.Stdout = hash
	want(t, h.Finish(t, cmd), 0, "", "")
	whole := sha256.New()
	writeYes(whole)
	_, _ = io.WriteString(whole, "\nend\n")
	equal(t, "checksum of what was attached", hex.EncodeToString(hash.Sum(nil)), hex.EncodeToString(whole.Sum(nil)))
	id := inspect(t, h, "bounded", ".Id")
	files, err := filepath.Glob(filepath.Join(h.State, "hostd", "datastore", id, "stdio*.log"))
	if err != nil || len(files) != 3 {
		t.Errorf("files %q, %v", files, err)
	}
	total := int64(0)
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 3_000_000 || total < 2_000_000 {
		t.Errorf("the log takes %d bytes", total)
	}
	equal(t, "the last lines", h.MustDocker(t, "logs", "--tail", "1", "bounded"), "end")
	if kept := len(h.MustDocker(t, "logs", "bounded")); kept < 1_900_000 || kept > 3_000_000 {
		t.Errorf("%d bytes of the log are kept", kept)
	}
	h.MustDocker(t, append(append([]string{"run", "-d", "--name", "followed"}, bounds...), image, "sh", "-c", script)...)
	if followed := h.MustDocker(t, "logs", "-f", "followed"); !strings.HasSuffix(followed, "0123456789\nend") && !strings.HasSuffix(followed, "\nend") {
		t.Errorf("what was followed ends with %q", followed[max(0, len(followed)-100):])
	}
}

// testLogDriverNone: nothing of the output is stored; attach and run have it all the same.
func testLogDriverNone(t *testing.T, h *vmtest.Host) {
	hash := sha256.New()
	cmd := h.Command(t.Context(), "docker", "run", "--name", "unstored", "--log-driver", "none", image, "sh", "-c", fmt.Sprintf("yes 0123456789 | head -c %d", bigBytes))
	cmd.Stdout = hash
	want(t, h.Finish(t, cmd), 0, "", "")
	equal(t, "checksum", hex.EncodeToString(hash.Sum(nil)), hex.EncodeToString(yesHash(t)))
	want(t, h.Docker(t, "logs", "unstored"), 1, "", "configured logging driver does not support reading")
	if files, err := filepath.Glob(filepath.Join(h.State, "hostd", "datastore", inspect(t, h, "unstored", ".Id"), "stdio*.log")); err != nil || len(files) > 0 {
		t.Errorf("files %q, %v", files, err)
	}
	equal(t, "output of the second run", h.MustDocker(t, "run", "--rm", "--log-driver", "none", image, "echo", "hi"), "hi")
}

// testStdinBeyondTheEnd: a process that ends before it has read all of its input.
func testStdinBeyondTheEnd(t *testing.T, h *vmtest.Host) {
	cmd := h.Command(t.Context(), "docker", "run", "-i", "--rm", image, "head", "-c", "5")
	cmd.Stdin = bytes.NewReader(bytes.Repeat([]byte("x"), 20<<20))
	r := h.Finish(t, cmd)
	if r.Code != 0 || r.Stdout != "xxxxx" || r.Stderr != "" {
		t.Errorf("exit %d, stdout %q, stderr %q", r.Code, r.Stdout, r.Stderr)
	}
}

// testExecRaw is a client that reads the head of an answer by the segment, and the streams behind it.
func testExecRaw(t *testing.T, h *vmtest.Host) {
	id := h.MustDocker(t, "run", "-d", image, "sleep", "1000")
	socket := filepath.Join(h.Run, "docker.sock")
	ask := func(conn net.Conn, path, body string) {
		t.Helper()
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n%s", path, len(body), body); err != nil {
			t.Fatal(err)
		}
	}
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	conn := dial()
	ask(conn, "/containers/"+id+"/exec", `{"Cmd":["echo","hi"],"AttachStdout":true}`)
	head := make([]byte, 4096)
	n, err := conn.Read(head)
	if err != nil {
		t.Fatal(err)
	}
	_, session, _ := strings.Cut(string(head[:n]), `"Id":"`)
	session, _, _ = strings.Cut(session, `"`)
	conn = dial()
	ask(conn, "/exec/"+session+"/start", "{}")
	if n, err = conn.Read(head); err != nil || !strings.HasPrefix(string(head[:n]), "HTTP/1.1 101") || !strings.HasSuffix(string(head[:n]), "\r\n\r\n") {
		t.Fatalf("the first segment is %q, %v", head[:n], err)
	}
	all, err := io.ReadAll(conn)
	if err != nil || string(all) != "\x01\x00\x00\x00\x00\x00\x00\x03hi\n" {
		t.Errorf("the streams: %q, %v", all, err)
	}
	h.MustDocker(t, "rm", "-f", id)
}
