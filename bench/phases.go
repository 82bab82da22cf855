package main

import (
	"fmt"
	"strings"

	"github.com/containervm/containervm/bench/internal/measure"
)

// writePhases writes the moments of each side as a table, the items of receipts, where the time of a boot goes by its
// console, and what else there is to tell.
func writePhases(b *strings.Builder, res measure.Result) {
	for _, s := range res.Sides {
		if moments := s.Parts(""); len(moments) > 0 {
			fmt.Fprintf(b, "\n%s, moments in %s after the request (medians; each is the end of its phase):\n\n", s.Name, res.Unit)
			writeMarks(b, append(moments, measure.Mark{Name: "**first byte**", Value: float64(s.Median)}))
		}
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

func writeMarks(b *strings.Builder, marks []measure.Mark) {
	var head, row []string
	for _, m := range marks {
		head, row = append(head, m.Name), append(row, figure(measure.Number(m.Value)))
	}
	writeTable(b, head, [][]string{row})
}
