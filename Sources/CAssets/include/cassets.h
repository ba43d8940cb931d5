/* cassets: the files of the admin port's page, inside of the program.
 *
 * Why in C: `#embed` takes a file in as it is when the program is compiled, and the compiler tells the build what it took, so
 * that a change of the file is seen. Why a byte at a time: nothing that reads them has to handle a pointer; each is read once in
 * a process's life.
 */
#ifndef CASSETS_H
#define CASSETS_H

#include <stddef.h>
#include <stdint.h>

/* The files, in the order of their numbers. */
#define CASSETS_INDEX_HTML 0
#define CASSETS_APP_JS 1
#define CASSETS_TABLES_JS 2
#define CASSETS_STYLE_CSS 3
#define CASSETS_ICON_SVG 4
#define CASSETS_COUNT 5

/* The length of a file; 0 when there is none of this number. */
size_t cassets_length(int file);

/* A byte of a file; 0 when there is none at this place. */
uint8_t cassets_byte(int file, size_t place);

#endif
