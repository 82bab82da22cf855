package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/moby/moby/client"
)

// maxAnswer bounds an answer of the API that is read whole, in bytes.
const maxAnswer = 64 << 20

// extra calls an endpoint that Docker's client library does not know (controller/api/FORK.md). answer may be nil.
func extra(ctx context.Context, api *client.Client, method, path string, body, answer any) error {
	var sent bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&sent).Encode(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://cvm"+path, &sent)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	dial := api.Dialer()
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dial(ctx)
	}}}
	res, err := plain.Do(req)
	if err != nil {
		var refused *net.OpError
		if errors.As(err, &refused) && refused.Op == "dial" {
			return errNotRunning
		}
		return err
	}
	defer res.Body.Close()
	return readAnswer(res, answer)
}

func readAnswer(res *http.Response, answer any) error {
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	if res.StatusCode >= http.StatusBadRequest {
		var failed struct{ Message string }
		if json.Unmarshal(data, &failed) != nil || failed.Message == "" {
			return fmt.Errorf("the host answers %s", res.Status)
		}
		return errors.New(failed.Message)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(data, answer)
}

// receiptItem is one thing that a fork did to become someone else.
type receiptItem struct {
	Name    string `json:"name"`
	Outcome string `json:"outcome"`
	Micros  int    `json:"micros"`
	Detail  string `json:"detail"`
}

// child is a container that was forked.
type child struct {
	ID         string `json:"Id"`
	Name       string
	Generation int
	Index      int
	Receipt    []receiptItem
	Error      string
}

// template is a machine that containers are forked from.
type template struct {
	Name             string
	State            string
	MemoryMiB, CPUs  int
	Kernel, Initrd   string
	Version          string
	Created, Used    time.Time
	Children, Warm   int
	Prestarted, Want *int
	SharedMiB        *int
	PrivateMiB       *int
	OverheadMiB      *int
}

func listTemplates(ctx context.Context, api *client.Client) ([]template, error) {
	var list []template
	return list, extra(ctx, api, http.MethodGet, "/templates", nil, &list)
}

// measureTemplates is listTemplates with what the machines take of the host's memory, which the host measures for that.
func measureTemplates(ctx context.Context, api *client.Client) ([]template, error) {
	var list []template
	return list, extra(ctx, api, http.MethodGet, "/templates?memory=1", nil, &list)
}
