package main

import (
	"io"
	"testing"
)

func TestRecorderNamesAndTimesCalls(t *testing.T) {
	r := newRecorder()
	call := func(id, body string) {
		r.NewFile(id + ".req.headers").Close()
		request := r.NewFile(id + ".req.xml")
		io.WriteString(request, body)
		r.NewFile(id + ".res.headers").Close()
		response := r.NewFile(id + ".res.xml")
		request.Close()
		response.Close()
	}
	call("1-0001", `<?xml version="1.0"?><Envelope xmlns="x"><Body><PowerOnVM_Task xmlns="urn:vim25"><_this/>`)
	call("1-0002", `<soapenv:Envelope><soapenv:Body><vim:WaitForUpdatesEx>`)
	got := r.take()
	if len(got) != 1 || got[0].Method != "PowerOnVM_Task" || got[0].Ms < 0 {
		t.Errorf("take = %v, want PowerOnVM_Task alone", got)
	}
	if again := r.take(); len(again) != 0 {
		t.Errorf("take again = %v, want nothing", again)
	}
}

func TestTotal(t *testing.T) {
	if got := total([]Call{{"a", 1}, {"b", 4.5}}); got != 5.5 {
		t.Errorf("total = %v, want 5.5", got)
	}
}
