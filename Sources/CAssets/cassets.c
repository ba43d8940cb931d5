/* The files of the admin port's page. They lie beside this file in page/, where editors and browsers can read them. */
#include "cassets.h"

/* #embed is of C23; this compiler has it in every language. */
#pragma clang diagnostic ignored "-Wc23-extensions"

static const uint8_t index_html[] = {
#embed "page/index.html"
};
static const uint8_t app_js[] = {
#embed "page/app.js"
};
static const uint8_t tables_js[] = {
#embed "page/tables.js"
};
static const uint8_t style_css[] = {
#embed "page/style.css"
};
static const uint8_t icon_svg[] = {
#embed "page/icon.svg"
};

static const struct {
    const uint8_t *bytes;
    size_t length;
} files[CASSETS_COUNT] = {
    [CASSETS_INDEX_HTML] = {index_html, sizeof index_html},
    [CASSETS_APP_JS] = {app_js, sizeof app_js},
    [CASSETS_TABLES_JS] = {tables_js, sizeof tables_js},
    [CASSETS_STYLE_CSS] = {style_css, sizeof style_css},
    [CASSETS_ICON_SVG] = {icon_svg, sizeof icon_svg},
};

size_t cassets_length(int file)
{
    return file >= 0 && file < CASSETS_COUNT ? files[file].length : 0;
}

uint8_t cassets_byte(int file, size_t place)
{
    return place < cassets_length(file) ? files[file].bytes[place] : 0;
}
