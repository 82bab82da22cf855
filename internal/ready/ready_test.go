package ready

import (
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSay(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(w.Fd())) // Say closes it
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := Say(fd, struct{ URL string }{"https://h"}); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != `{"URL":"https://h"}`+"\n" {
		t.Errorf("read %q, %v", b, err)
	}
	if err := Say(-1, nil); err != nil {
		t.Errorf("nobody asked: %v", err)
	}
}
