package fields

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Page is docs/api.md: every route and its state, and what is not done of each field.
func Page(minVersion, maxVersion string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# The API, route by route

What becomes of each route of the Docker Engine API, versions %s to %s, of its parameters, and of the fields of requests. This page is written
from the table in controller/internal/fields, which drives the checks of requests too: what it does not name is refused by its name. Routes of
containerVM's own are described in [openapi.yaml](openapi.yaml).

| route | state | parameters | filters |
|---|---|---|---|
`, minVersion, maxVersion)
	all := slices.SortedFunc(maps.Values(Routes()), func(a, b Route) int {
		return cmp.Or(strings.Compare(pathOf(a), pathOf(b)), strings.Compare(a.Pattern, b.Pattern))
	})
	for _, r := range all {
		state := string(r.State)
		if r.State == Refused {
			state = fmt.Sprintf("refused (%d)", r.Status)
		}
		if r.Text != "" {
			state += ": " + cell(r.Text)
		}
		if r.Own {
			state += ", containerVM's own"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r.Pattern, state, paramsCell(r.Query), paramsCell(r.Filters))
	}
	b.WriteString("\n## Fields of requests\n\nThose that are not named here have Docker's effect. A field that says nothing (zero, false, null, empty) is always taken.\n")
	for _, t := range []struct {
		name  string
		table Table
	}{
		{"POST /containers/create", Create()},
		{"POST /containers/{id}/update", Update()},
		{"POST /containers/{id}/exec", Exec()},
		{"POST /exec/{id}/start", ExecStart()},
		{"POST /containers/{id}/fork", Fork()},
		{"POST /commit", Commit()},
		{"POST /auth", Auth()},
		{"POST /networks/create", NetworkCreate()},
		{"POST /networks/{id}/connect", Connect()},
		{"POST /networks/{id}/disconnect", Disconnect()},
		{"POST /volumes/create", VolumeCreate()},
	} {
		t.table.page(&b, t.name)
	}
	return b.String()
}

func (t Table) page(b *strings.Builder, name string) {
	var rows []string
	for _, path := range slices.Sorted(maps.Keys(t)) {
		l := t[path]
		if l.State == Done {
			continue
		}
		state := string(l.State)
		if len(l.Takes) > 0 {
			state += " but for `" + strings.Join(l.Takes, "`, `") + "`"
		}
		rows = append(rows, fmt.Sprintf("| %s | %s | %s |\n", strings.ReplaceAll(path, "Resources.", ""), state, cell(l.Text)))
	}
	if len(rows) > 0 {
		fmt.Fprintf(b, "\n### %s\n\n| field | state | why |\n|---|---|---|\n%s", name, strings.Join(rows, ""))
	}
}

func pathOf(r Route) string { _, path, _ := strings.Cut(r.Pattern, " "); return path }

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// paramsCell lists parameters, those that are not done with their state.
func paramsCell(all []Param) string {
	var names []string
	for _, p := range all {
		name := "`" + p.Name + "`"
		switch {
		case p.State != Done:
			name += " (" + string(p.State) + ": " + cell(p.Text) + ")"
		case p.Text != "":
			name += " (" + cell(p.Text) + ")"
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}
