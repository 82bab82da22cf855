package vim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// Namespaces of SOAP 1.1, XML Schema and vim25.
const (
	soapNS    = "http://schemas.xmlsoap.org/soap/envelope/"
	xsdNS     = "http://www.w3.org/2001/XMLSchema"
	xsiNS     = "http://www.w3.org/2001/XMLSchema-instance"
	namespace = "urn:vim25"
)

// maxRequest bounds a request in bytes: it holds extraConfig of a VM several times over.
const maxRequest = 4 << 20

var (
	errNotSOAP = errors.New("the request is no SOAP envelope with a method in its body")
	errMethod  = errors.New("the method is not served")
)

// decodeRequest finds the method in a SOAP envelope and decodes its argument. lookup returns a pointer to a new request
// of the named method, or nil when the method is not served.
func decodeRequest(data []byte, lookup func(name string) any) (name string, req any, err error) {
	d := xml.NewDecoder(bytes.NewReader(data))
	d.TypeFunc = types.TypeFunc()
	start, err := enterBody(d)
	if err != nil {
		return "", nil, fmt.Errorf("cannot read the request: %w", err)
	}
	name = start.Name.Local
	if req = lookup(name); req == nil {
		return name, nil, errMethod
	}
	if err := decodeElement(d, req, &start); err != nil {
		return name, nil, fmt.Errorf("cannot decode the argument of %s: %w", name, err)
	}
	return name, req, nil
}

// decodeElement decodes an element. The decoder panics at an xsi:type that does not fit the element, and leaves a nil in the list
// of one whose type it does not know: both are the client's fault, so both are errors here.
func decodeElement(d *xml.Decoder, req any, start *xml.StartElement) (err error) {
	defer func() {
		if why := recover(); why != nil {
			err = fmt.Errorf("an element has an xsi:type that does not fit: %v", why)
		}
	}()
	if err := d.DecodeElement(req, start); err != nil {
		return err
	}
	if holdsNil(reflect.ValueOf(req)) {
		return errors.New("an element has an unknown xsi:type")
	}
	return nil
}

// holdsNil reports whether a list in a decoded value has a nil.
func holdsNil(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return !v.IsNil() && holdsNil(v.Elem())
	case reflect.Slice:
		for n := range v.Len() {
			item := v.Index(n)
			if item.Kind() == reflect.Interface && item.IsNil() && item.NumMethod() > 0 { // one of anyType may be empty
				return true
			}
			if holdsNil(item) {
				return true
			}
		}
	case reflect.Struct:
		for n := range v.NumField() {
			if f := v.Field(n); f.CanInterface() && holdsNil(f) { // those of time.Time cannot
				return true
			}
		}
	}
	return false
}

// enterBody reads up to the first element in Envelope/Body and returns it.
func enterBody(d *xml.Decoder) (xml.StartElement, error) {
	if e, err := nextElement(d); err != nil || e.Name.Local != "Envelope" {
		return e, errors.Join(errNotSOAP, err)
	}
	for {
		e, err := nextElement(d)
		if err != nil {
			return e, errors.Join(errNotSOAP, err)
		}
		if e.Name.Local == "Body" {
			return nextElement(d)
		}
		if err := d.Skip(); err != nil { // Header
			return e, err
		}
	}
}

// nextElement returns the next start tag; an end tag before it means that there is none.
func nextElement(d *xml.Decoder) (xml.StartElement, error) {
	for {
		token, err := d.Token()
		if err != nil {
			return xml.StartElement{}, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			return t, nil
		case xml.EndElement:
			return xml.StartElement{}, io.ErrUnexpectedEOF
		}
	}
}

// envelope is soap.Envelope with the prefixes that other clients than govmomi insist on.
type envelope struct {
	XMLName xml.Name `xml:"soapenv:Envelope"`
	Env     string   `xml:"xmlns:soapenv,attr"`
	XSD     string   `xml:"xmlns:xsd,attr"`
	XSI     string   `xml:"xmlns:xsi,attr"`
	Body    body     `xml:"soapenv:Body"`
}

// body holds an answer or a fault.
type body struct {
	answer any
	fault  *soapFault
}

// MarshalXML writes the answer under its type's name, in vim25's namespace.
func (b body) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	if err := e.EncodeToken(start); err != nil {
		return err
	}
	var err error
	if b.fault != nil {
		err = e.Encode(b.fault)
	} else {
		name := reflect.TypeOf(b.answer).Elem().Name()
		err = e.EncodeElement(b.answer, xml.StartElement{Name: xml.Name{Space: namespace, Local: name}})
	}
	if err != nil {
		return err
	}
	return e.EncodeToken(start.End())
}

// soapFault is a SOAP 1.1 fault (section 4.4) with a vim25 fault as its detail.
type soapFault struct {
	XMLName xml.Name    `xml:"soapenv:Fault"`
	Code    string      `xml:"faultcode"`
	String  string      `xml:"faultstring"`
	Detail  faultDetail `xml:"detail"`
}

type faultDetail struct{ fault types.BaseMethodFault }

// MarshalXML writes the fault under the name "<type>Fault", as vCenter does.
func (d faultDetail) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	if err := e.EncodeToken(start); err != nil {
		return err
	}
	kind := reflect.TypeOf(d.fault).Elem().Name()
	if err := e.EncodeElement(d.fault, xml.StartElement{
		Name: xml.Name{Local: kind + "Fault"},
		Attr: []xml.Attr{
			{Name: xml.Name{Local: "xmlns"}, Value: namespace},
			{Name: xml.Name{Local: "xsi:type"}, Value: kind},
		},
	}); err != nil {
		return err
	}
	return e.EncodeToken(start.End())
}

// encode writes an envelope.
func encode(b body) ([]byte, error) {
	var out bytes.Buffer
	out.WriteString(xml.Header)
	if err := xml.NewEncoder(&out).Encode(envelope{Env: soapNS, XSD: xsdNS, XSI: xsiNS, Body: b}); err != nil {
		return nil, fmt.Errorf("cannot encode the answer: %w", err)
	}
	return out.Bytes(), nil
}
