package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containervm/containervm/bench/internal/measure"
)

// writePhases writes the moments of all sides as one table, the items of receipts, where the time of a boot goes by its
// console, and what else there is to tell.
func writePhases(b *strings.Builder, res measure.Result) {
	var sides []measure.Figure
	for _, s := range res.Sides {
		if len(s.Parts("")) > 0 {
			sides = append(sides, s)
		}
	}
	if len(sides) > 0 {
		fmt.Fprintf(b, "\nMoments in %s after the request (medians); each is the end of its phase:\n\n", res.Unit)
		writeMoments(b, sides, res.LastMoment())
	}
	for _, s := range res.Sides {
		for _, part := range []struct{ of, about string }{
			{ofReceipt, "its receipt, ms of each item"},
			{ofConsole, "between the lines of its console, ms"},
			{measure.OfFigures, "beside that"},
		} {
			if marks := s.Parts(part.of); len(marks) > 0 {
				fmt.Fprintf(b, "\n%s, %s:\n\n", s.Name, part.about)
				writeMarks(b, marks)
			}
		}
	}
}

// writeMoments has a row for each side and a column for each moment that any of them has, and for the last, which values are.
func writeMoments(b *strings.Builder, sides []measure.Figure, last string) {
	names := columns(sides)
	var rows [][]string
	for _, s := range sides {
		row := []string{s.Name}
		for _, n := range names {
			cell := ""
			for _, m := range s.Parts("") {
				if m.Name == n {
					cell = figure(measure.Number(m.Value))
				}
			}
			row = append(row, cell)
		}
		rows = append(rows, append(row, figure(s.Median)))
	}
	writeTable(b, append(append([]string{"side"}, names...), "**"+last+"**"), rows)
}

// columns are the names of all moments in an order that keeps that of each side: a name that is new comes right before the
// next one that is known.
func columns(sides []measure.Figure) (names []string) {
	for _, s := range sides {
		at := len(names)
		for _, m := range slices.Backward(s.Parts("")) {
			if i := slices.Index(names, m.Name); i >= 0 {
				at = i
			} else {
				names = slices.Insert(names, at, m.Name)
			}
		}
	}
	return names
}

func writeMarks(b *strings.Builder, marks []measure.Mark) {
	var head, row []string
	for _, m := range marks {
		head, row = append(head, m.Name), append(row, figure(measure.Number(m.Value)))
	}
	writeTable(b, head, [][]string{row})
}
