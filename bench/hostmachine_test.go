package main

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/containervm/containervm/bench/internal/measure"
	"github.com/containervm/containervm/hostd-bridge/hostapi/hostclient"
)

func TestMachineMemory(t *testing.T) {
	const text = `{"machines":[{"vm":"vm-1","sharedKiB":40960,"guestPrivateKiB":0,"overheadKiB":0},{"vm":"vm-12","sharedKiB":40960,"guestPrivateKiB":1536,"overheadKiB":20480}]}`
	memory := func(text, ref string) (measure.Memory, error) {
		host := hostclient.New(&url.URL{Scheme: "https", Host: "host"}, func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(text))}, nil
		})
		return machine{host: host, ref: ref}.memory(t.Context())
	}
	got, err := memory(text, "vm-12")
	if want := (measure.Memory{GuestMiB: 1.5, OverheadMiB: 20}); err != nil || got != want {
		t.Errorf("memory = %+v, %v; want %+v", got, err, want)
	}
	for text, ref := range map[string]string{text: "vm-2", `{"machines":3}`: "vm-1", "": "vm-1", `{"machines":[]}`: ""} {
		if m, err := memory(text, ref); err == nil {
			t.Errorf("%s of %q = %+v", ref, text, m)
		}
	}
}
