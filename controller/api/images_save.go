package api

import (
	"net/http"
)

// save serves `docker save` of several images.
func (a *imageAPI) save(w http.ResponseWriter, r *http.Request) error {
	names := r.URL.Query()["names"]
	if len(names) == 0 {
		return invalid("no image was named to be saved")
	}
	return a.saveAll(w, r, names)
}

// saveOne serves `docker save` of one image, as older clients ask for it.
func (a *imageAPI) saveOne(w http.ResponseWriter, r *http.Request, name string) error {
	return a.saveAll(w, r, []string{name})
}

func (a *imageAPI) saveAll(w http.ResponseWriter, r *http.Request, names []string) error {
	saving, err := a.store.Save(names)
	if err != nil {
		return err
	}
	defer saving.Close()
	if err := onlyPlatform(names[0], r.URL.Query()["platform"]); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-tar")
	return saving.Write(r.Context(), w)
}
