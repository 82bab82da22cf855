package peer

import (
	"bufio"
	"io"
	"os"
	"strings"
	"testing"
)

// scripted answers each line that the client sends with the next of the answers, after the greeting.
func scripted(t *testing.T, greeting string, answers ...string) *qmp {
	conn, file, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		defer file.Close()
		io.WriteString(file, greeting+"\n")
		lines := bufio.NewReader(file)
		for _, a := range answers {
			if _, err := lines.ReadString('\n'); err != nil {
				return
			}
			io.WriteString(file, a+"\n")
		}
	}()
	return newQMP(conn)
}

const hello = `{"QMP": {"version": {}}}`

func TestQMPKeepsEventsForThoseWhoWait(t *testing.T) {
	q := scripted(t, hello,
		`{"return": {}}`,
		`{"event": "MIGRATION", "data": {"status": "active"}}`+"\n"+`{"event": "STOP"}`+"\n"+`{"event": "MIGRATION", "data": {"status": "completed"}}`+"\n"+`{"return": {}}`)
	if err := q.handshake(); err != nil {
		t.Fatal(err)
	}
	if err := q.run("migrate", nil); err != nil {
		t.Fatal(err)
	}
	if err := q.migrated(); err != nil {
		t.Error(err)
	}
}

func TestQMPSaysWhatQEMURefuses(t *testing.T) {
	q := scripted(t, hello, `{"error": {"class": "GenericError", "desc": "no such thing"}}`)
	if err := q.handshake(); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("handshake: %v", err)
	}
	q = scripted(t, `{"event": "STOP"}`)
	if err := q.handshake(); err == nil {
		t.Error("an event was taken for a greeting")
	}
	q = scripted(t, hello, `{"return": {}}`, `{"event": "MIGRATION", "data": {"status": "failed"}}`+"\n"+`{"return": {}}`)
	if err := q.handshake(); err != nil {
		t.Fatal(err)
	}
	if err := q.run("migrate-incoming", nil); err != nil {
		t.Fatal(err)
	}
	if err := q.migrated(); err == nil {
		t.Error("a migration that failed was taken for one that completed")
	}
}

func TestQMPPassesFiles(t *testing.T) {
	q := scripted(t, hello, `{"return": {}}`, `{"return": {}}`)
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := q.handshake(); err != nil {
		t.Fatal(err)
	}
	if err := q.runWith("getfd", map[string]string{"fdname": "state"}, f); err != nil {
		t.Error(err)
	}
}
