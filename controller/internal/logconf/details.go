package logconf

import (
	"bytes"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/moby/moby/api/types/container"
)

// details are the attributes of a log's lines.
func details(config map[string]string, of *container.Config, names Names) (map[string]string, error) {
	env := map[string]string{}
	for _, kv := range of.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	all := map[string]string{}
	for _, from := range []struct {
		list, pattern string
		values        map[string]string
	}{{config["labels"], config["labels-regex"], of.Labels}, {config["env"], config["env-regex"], env}} {
		if err := choose(all, from.list, from.pattern, from.values); err != nil {
			return nil, err
		}
	}
	if text := config["tag"]; text != "" {
		tag, err := expand(text, of, names)
		if err != nil {
			return nil, invalid("failed to initialize logging driver: %v", err)
		}
		all["tag"] = tag
	}
	return all, nil
}

// choose adds the values with the names in a list, separated by commas, and those whose names match a pattern.
func choose(all map[string]string, list, pattern string, values map[string]string) error {
	for name := range strings.SplitSeq(list, ",") {
		if v, ok := values[name]; ok {
			all[name] = v
		}
	}
	if pattern == "" {
		return nil
	}
	matches, err := regexp.Compile(pattern)
	if err != nil {
		return invalid("failed to initialize logging driver: %v", err)
	}
	for name, v := range values {
		if matches.MatchString(name) {
			all[name] = v
		}
	}
	return nil
}

// maxTag bounds a tag, in bytes.
const maxTag = 4096

// tagged is what a tag's template may name.
type tagged struct {
	ID, FullID, Name, ImageID, ImageFullID, ImageName, DaemonName string
}

// expand fills a tag's template in. It has no loops and no templates within it: what a client writes must end.
func expand(text string, of *container.Config, names Names) (string, error) {
	for _, word := range []string{"range", "template", "define", "block"} {
		if strings.Contains(text, word) || len(text) > maxTag {
			return "", errNoTag
		}
	}
	t, err := template.New("log-tag").Parse(text)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = t.Execute(&out, tagged{
		ID: short(names.ID), FullID: names.ID, Name: names.Name,
		ImageID: short(strings.TrimPrefix(names.ImageID, "sha256:")), ImageFullID: names.ImageID, ImageName: of.Image, DaemonName: "docker",
	})
	return out.String(), err
}

// short is the form of an ID that people are shown.
func short(id string) string { return id[:min(12, len(id))] }

// encode writes attributes in the order of their names.
func encode(all map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		parts = append(parts, url.QueryEscape(k)+"="+url.QueryEscape(all[k]))
	}
	return strings.Join(parts, ",")
}
