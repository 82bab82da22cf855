package api

import (
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/record"
)

// openAPI is what the tests need of docs/openapi.yaml.
type openAPI struct {
	Paths      map[string]map[string]struct{ Responses map[string]any }
	Components struct {
		Schemas map[string]struct{ Properties map[string]any }
	}
}

func readOpenAPI(t *testing.T) openAPI {
	t.Helper()
	text, err := os.ReadFile("../../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc openAPI
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// TestOpenAPIRoutes: what docs/openapi.yaml describes is routed, and every route of fork.go is described.
func TestOpenAPIRoutes(t *testing.T) {
	doc := readOpenAPI(t)
	mux := routes(Deps{}).mux
	var described []string
	for path, methods := range doc.Paths {
		for method, operation := range methods {
			route := strings.ToUpper(method) + " " + path
			described = append(described, route)
			_, pattern := mux.Handler(httptest.NewRequest(strings.ToUpper(method), strings.NewReplacer("{", "", "}", "").Replace(path), nil))
			if pattern != route {
				t.Errorf("%s is routed to %q", route, pattern)
			}
			if len(operation.Responses) == 0 {
				t.Errorf("%s has no answer", route)
			}
		}
	}
	source, err := os.ReadFile("fork.go")
	if err != nil {
		t.Fatal(err)
	}
	own := regexp.MustCompile(`r\.handle\("([^"]+)"`).FindAllSubmatch(source, -1)
	if len(own) == 0 {
		t.Error("there is no route in fork.go")
	}
	for _, match := range own {
		if !slices.Contains(described, string(match[1])) {
			t.Errorf("%s is not in docs/openapi.yaml", match[1])
		}
	}
	if _, pattern := mux.Handler(httptest.NewRequest(http.MethodGet, "/nowhere", nil)); pattern != "/" {
		t.Errorf("a path that does not exist is routed to %q", pattern)
	}
}

// TestOpenAPISchemas: the fields of the answers have the names that docs/openapi.yaml says.
func TestOpenAPISchemas(t *testing.T) {
	schemas := readOpenAPI(t).Components.Schemas
	for name, value := range map[string]any{
		"ForkRequest": forkRequest{}, "Notify": notifyRequest{}, "Child": childAnswer{}, "Fork": forkAnswer{}, "Clock": ctr.Clock{}, "Template": templateAnswer{},
		"ReceiptItem": ctr.ReceiptItem{}, "Mark": record.Mark{},
	} {
		var want, got []string
		for _, field := range reflect.VisibleFields(reflect.TypeOf(value)) {
			tag, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if tag == "" {
				tag = field.Name
			}
			want = append(want, tag)
		}
		for property := range schemas[name].Properties {
			got = append(got, property)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s has %v, its Go type %v", name, got, want)
		}
	}
}
