package api

import (
	"io"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestParametersLeaveTheBody: curl calls every body urlencoded, and reading it as a form would eat it.
func TestParametersLeaveTheBody(t *testing.T) {
	const body = "quiet=0&filters=x"
	r := httptest.NewRequest("POST", `/images/load?quiet=1&n=3&filters=%7B%22a%22%3A%5B%22b%22%5D%7D`, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	n, err := intParam(r, "n", 0)
	if !boolParam(r, "quiet") || n != 3 || err != nil {
		t.Errorf("quiet %v, n %d, %v", boolParam(r, "quiet"), n, err)
	}
	if f, err := readFilters(r); err != nil || len(f["a"]) != 1 {
		t.Errorf("filters %v, %v", f, err)
	}
	if rest, err := io.ReadAll(r.Body); err != nil || string(rest) != body {
		t.Errorf("the body is %q, %v; want it whole", rest, err)
	}
}
