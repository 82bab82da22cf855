package plots

import (
	"fmt"
	"html"
	"regexp"
	"strconv"

	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
)

// sans is the font that drawings are set in.
func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

// textElement is a text of vgsvg's: its size and content.
var textElement = regexp.MustCompile(`(?s)<text ([^>]*font-size:([0-9.]+)px")>([^<]*)</text>`)

// anyFont makes texts as wide as they were set also where the font is another one: few machines have ours, and a wider one
// would run into the drawing. Viewers choose the first family that they have.
func anyFont(svg []byte) []byte {
	return textElement.ReplaceAllFunc(svg, func(element []byte) []byte {
		m := textElement.FindSubmatch(element)
		size, err := strconv.ParseFloat(string(m[2]), 64)
		if err != nil {
			return element
		}
		face := font.DefaultCache.Lookup(sans(0), vg.Length(size))
		wide := face.Width(html.UnescapeString(string(m[3])))
		families := fontFamily.ReplaceAll(m[1], []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif"))
		return fmt.Appendf(nil, `<text textLength="%.2f" lengthAdjust="spacingAndGlyphs" %s>%s</text>`, wide.Points(), families, m[3])
	})
}

var fontFamily = regexp.MustCompile(`font-family:[^;"]*`)
