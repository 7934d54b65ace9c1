package ui

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Table is rows for people. Cells are made safe when they are added.
type Table struct {
	columns []Column
	rows    []table.Row
}

// Column describes one column of a Table.
type Column struct {
	Title string
	Right bool                   // numbers: aligned at the right
	Text  bool                   // sentences, which are not quoted as names are
	Tone  func(cell string) Tone // what a cell means; nil: nothing in particular
}

// Tone is what a cell means for the user; on a terminal it has a colour.
type Tone int

// The tones.
const (
	Plain Tone = iota
	Good
	Warning
	Bad
)

var tones = map[Tone]string{Good: green, Warning: yellow, Bad: red}

// NewTable returns an empty table.
func NewTable(columns ...Column) *Table { return &Table{columns: columns} }

// Add appends a row, one cell for each column.
func (t *Table) Add(cells ...string) {
	row := make(table.Row, len(cells))
	for i, c := range cells {
		row[i] = ""
		switch {
		case c == "":
		case t.columns[i].Text:
			row[i] = SafeText(c)
		default:
			row[i] = Safe(c)
		}
	}
	t.rows = append(t.rows, row)
}

// Table writes a table to stdout.
func (u *UI) Table(t *Table) error {
	w := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatUpper
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	w.SetStyle(style)
	w.SuppressTrailingSpaces()
	header := make(table.Row, len(t.columns))
	configs := make([]table.ColumnConfig, len(t.columns))
	for i, c := range t.columns {
		header[i] = c.Title
		configs[i] = table.ColumnConfig{Number: i + 1, Align: text.AlignLeft, AlignHeader: text.AlignLeft}
		if c.Right {
			configs[i].Align, configs[i].AlignHeader = text.AlignRight, text.AlignRight
		}
		if c.Tone != nil {
			configs[i].Transformer = func(cell any) string {
				s, _ := cell.(string)
				color, has := tones[c.Tone(s)]
				return u.paint(u.colorOut && has, color, s)
			}
		}
	}
	w.AppendHeader(header)
	w.SetColumnConfigs(configs)
	w.AppendRows(t.rows)
	u.outMu.Lock()
	defer u.outMu.Unlock()
	_, err := fmt.Fprintln(u.opts.Stdout, w.Render())
	return err
}
