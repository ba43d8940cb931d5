#include "ciocore.h"
// placeholder
