/* What every library that mypyc makes includes: compiles if this Python is one that mypyc knows. */
#include <init.c>
#include <getargs.c>
#include <getargsfast.c>
#include <int_ops.c>
#include <float_ops.c>
#include <str_ops.c>
#include <bytes_ops.c>
#include <list_ops.c>
#include <dict_ops.c>
#include <set_ops.c>
#include <tuple_ops.c>
#include <exc_ops.c>
#include <misc_ops.c>
#include <generic_ops.c>
#include <pythonsupport.c>
#include <function_wrapper.c>
