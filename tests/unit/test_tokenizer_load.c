/* tests/unit/test_tokenizer_load.c: a tokenizer.json with one thing wrong is refused with the name of
 * that thing, for every field there is; a truncated one always. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/text/tokenizer.h"
#include "tests/lib/check.h"

/* clang-format off */
static const char byte_level[] =
    "{'version':'1.0','truncation':null,'padding':null,'added_tokens':["
    "{'id':6,'content':'<a>','single_word':false,'lstrip':false,'rstrip':false,'normalized':false,'special':true},"
    "{'id':7,'content':'<b>','single_word':false,'lstrip':false,'rstrip':false,'normalized':true,'special':false}],"
    "'normalizer':{'type':'Sequence','normalizers':[{'type':'NFC'},{'type':'Prepend','prepend':'_'}]},"
    "'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'Split','pattern':{'Regex':"
    "\"'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)|\\\\s+\""
    "},'behavior':'Isolated','invert':false},"
    "{'type':'ByteLevel','add_prefix_space':false,'trim_offsets':true,'use_regex':false}]},"
    "'post_processor':{'type':'Sequence','processors':[{'type':'ByteLevel','add_prefix_space':true,'trim_offsets':false},"
    "{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'<a>','type_id':0}},{'Sequence':{'id':'A','type_id':0}}],"
    "'pair':[],'special_tokens':{'<a>':{'id':'<a>','ids':[6],'tokens':['<a>']}}}]},"
    "'decoder':{'type':'ByteLevel','add_prefix_space':true,'trim_offsets':true,'use_regex':true},"
    "'model':{'type':'BPE','dropout':null,'unk_token':null,'continuing_subword_prefix':null,'end_of_word_suffix':null,"
    "'fuse_unk':false,'byte_fallback':false,'ignore_merges':true,"
    "'vocab':{'a':0,'b':1,'c':2,'ab':3,'abc':4,'bc':5},'merges':['a b',['ab','c']]}}";

static const char wordpiece[] =
    "{'version':'1.0','truncation':{'max_length':5},'padding':null,'added_tokens':["
    "{'id':0,'content':'[U]','single_word':false,'lstrip':false,'rstrip':false,'normalized':false,'special':true}],"
    "'normalizer':{'type':'BertNormalizer','clean_text':true,'handle_chinese_chars':true,'strip_accents':null,'lowercase':true},"
    "'pre_tokenizer':{'type':'BertPreTokenizer'},"
    "'post_processor':{'type':'BertProcessing','sep':['[U]',0],'cls':['[U]',0]},"
    "'decoder':{'type':'WordPiece','prefix':'##','cleanup':true},"
    "'model':{'type':'WordPiece','unk_token':'[U]','continuing_subword_prefix':'##','max_input_chars_per_word':100,"
    "'vocab':{'[U]':0,'a':1,'##b':2}}}";

static const char metaspace[] =
    "{'version':'1.0','truncation':null,'padding':null,'added_tokens':[],"
    "'normalizer':{'type':'Replace','pattern':{'String':' '},'content':'\xe2\x96\x81'},"
    "'pre_tokenizer':{'type':'Metaspace','replacement':'\xe2\x96\x81','prepend_scheme':'first','split':false},"
    "'post_processor':null,"
    "'decoder':{'type':'Sequence','decoders':[{'type':'Replace','pattern':{'String':'\xe2\x96\x81'},'content':' '},"
    "{'type':'ByteFallback'},{'type':'Fuse'},{'type':'Strip','content':' ','start':1,'stop':0}]},"
    "'model':{'type':'BPE','unk_token':'u','vocab':{'u':0,'a':1},'merges':[]}}";

static const struct {
    const char *base, *from, *to, *says;
} table[] = {
    {byte_level, "'version':'1.0'", "'version':'2.0'", "version: only"},
    {byte_level, "'version':'1.0',", "", "version: only"},
    {byte_level, "'version'", "'other':1,'version'", "other: unknown field"},
    {byte_level, "'truncation':null", "'truncation':3", "truncation:"},
    {byte_level, "'padding':null", "'padding':[]", "padding:"},
    {byte_level, "'padding':null", "'padding':null,'padding':null", "duplicate"},
    {byte_level, "'added_tokens':[", "'added_tokens':[1,", "added_tokens[0]: not an object"},
    {byte_level, "'id':6", "'id':-6", "added_tokens[0].id"},
    {byte_level, "'id':6", "'id':2097152", "added_tokens[0].id"},
    {byte_level, "'id':6", "'id':'6'", "added_tokens[0].id"},
    {byte_level, "'id':6", "'id':5", "added_tokens[0].id: another token's"},
    {byte_level, "'id':7", "'id':6", "added_tokens[1].id: another token's"},
    {byte_level, "'content':'<a>'", "'content':''", "added_tokens[0].content"},
    {byte_level, "'content':'<a>'", "'content':null", "added_tokens[0].content"},
    {byte_level, "'content':'<a>'", "'content':'abc'", "added_tokens[0].content: a token with another id"},
    {byte_level, "'id':7,'content':'<b>'", "'id':6,'content':'<a>'", "added_tokens[1].id: there already"},
    {byte_level, "'single_word':false", "'single_word':0", "added_tokens[0].single_word"},
    {byte_level, "'lstrip':false", "'lstrip':null", "added_tokens[0].lstrip"},
    {byte_level, "'rstrip':false", "'rstrip':'no'", "added_tokens[0].rstrip"},
    {byte_level, "'normalized':false,", "", "added_tokens[0].normalized"},
    {byte_level, "'special':true", "'special':1", "added_tokens[0].special"},
    {byte_level, "'special':true", "'special':true,'x':1", "added_tokens[0].x: unknown field"},
    {byte_level, "{'type':'NFC'}", "{'type':'Strip'}", "normalizer.normalizers[0].type: Strip"},
    {byte_level, "{'type':'NFC'}", "{'type':'NFC','x':1}", "normalizer.normalizers[0].x"},
    {byte_level, "{'type':'NFC'}", "{'type':'Sequence','normalizers':[]}", "normalizers[0].type: Sequence"},
    {byte_level, "{'type':'NFC'}", "{}", "normalizer.normalizers[0].type"},
    {byte_level, "'normalizers':[", "'normalizers':{},'z':[", "normalizer.normalizers: not an array"},
    {byte_level, "'prepend':'_'", "'prepend':''", "normalizer.normalizers[1].prepend"},
    {byte_level, "'prepend':'_'", "'prepend':'123456789'", "normalizer.normalizers[1].prepend"},
    {byte_level, "'type':'Split'", "'type':'Digits'", "pre_tokenizer.pretokenizers[0].type: Digits"},
    {byte_level, "'s|'t|", "'s|'T|", "pre_tokenizer.pretokenizers[0].pattern.Regex: not one of"},
    {byte_level, "'Regex':", "'String':", "pre_tokenizer.pretokenizers[0].pattern"},
    {byte_level, "'behavior':'Isolated'", "'behavior':'Removed'", "pretokenizers[0].behavior: only"},
    {byte_level, "'invert':false", "'invert':true", "pretokenizers[0].invert: only"},
    {byte_level, "'invert':false", "'invert':null", "pretokenizers[0].invert: not"},
    {byte_level, "'add_prefix_space':false", "'add_prefix_space':true", "pretokenizers[1].add_prefix_space"},
    {byte_level, "'use_regex':false", "'use_regex':true", "pretokenizers[1].use_regex"},
    {byte_level, "'use_regex':false", "'use_regex':1", "pretokenizers[1].use_regex"},
    {byte_level, "{'type':'ByteLevel'", "{'type':'BertPreTokenizer'},{'type':'ByteLevel'", "pretokenizers[1].type"},
    {byte_level, "{'type':'TemplateProcessing'", "{'type':'Other'", "post_processor.processors[1].type: Other"},
    {byte_level, "'single':[", "'single':{},'z':[", "processors[1].z: unknown field"},
    {byte_level, "{'Sequence':{'id':'A'", "{'Sequence':{'id':'B'", "processors[1].single[1]"},
    {byte_level, ",{'Sequence':{'id':'A','type_id':0}}", "", "processors[1].single: no Sequence A"},
    {byte_level, "'SpecialToken':{'id':'<a>'", "'SpecialToken':{'id':'<c>'", "special_tokens: no ids"},
    {byte_level, "'ids':[6]", "'ids':[7]", "processors[1]: not a token and its id"},
    {byte_level, "'ids':[6]", "'ids':[6,6]", "special_tokens: no ids"},
    {byte_level, "'tokens':['<a>']", "'tokens':['<z>']", "processors[1]: not a token and its id"},
    {byte_level, "'decoder':{'type':'ByteLevel'", "'decoder':{'type':'CTC'", "decoder.type: CTC"},
    {byte_level, "'decoder':{", "'decoder':null,'z':{", "z: unknown field"},
    {byte_level, "'model':{'type':'BPE'", "'model':{'type':'Unigram'", "model.type"},
    {byte_level, "'dropout':null", "'dropout':0.1", "model.dropout"},
    {byte_level, "'dropout':null", "'dropout':'x'", "model.dropout"},
    {byte_level, "'unk_token':null", "'unk_token':'z'", "model.unk_token: not a token"},
    {byte_level, "'unk_token':null", "'unk_token':3", "model.unk_token"},
    {byte_level, "'continuing_subword_prefix':null", "'continuing_subword_prefix':'#'", "model.continuing_subword_prefix"},
    {byte_level, "'end_of_word_suffix':null", "'end_of_word_suffix':'/'", "model.end_of_word_suffix"},
    {byte_level, "'fuse_unk':false", "'fuse_unk':null", "model.fuse_unk"},
    {byte_level, "'byte_fallback':false", "'byte_fallback':true", "model.byte_fallback"},
    {byte_level, "'ignore_merges':true", "'ignore_merges':1", "model.ignore_merges"},
    {byte_level, "'a':0", "'a':1", "model.vocab: \"b\": id 1"},
    {byte_level, "'a':0", "'a':-1", "model.vocab: \"a\": ids below"},
    {byte_level, "'a':0", "'a':0.5", "model.vocab: \"a\": ids below"},
    {byte_level, "'a':0", "'a':2097152", "model.vocab: \"a\": ids below"},
    {byte_level, "'vocab':{", "'vocab':{},'z':{", "model.z: unknown field"},
    {byte_level, "'a b'", "'ab'", "model.merges[0]: not two tokens"},
    {byte_level, "'a b'", "'a b c'", "model.merges[0]: not two tokens"},
    {byte_level, "'a b'", "' b'", "model.merges[0]: not two tokens"},
    {byte_level, "'a b'", "7", "model.merges[0]: not two tokens"},
    {byte_level, "'a b'", "['a','b','c']", "model.merges[0]: not two tokens"},
    {byte_level, "'a b'", "'z b'", "model.merges[0]: its left half"},
    {byte_level, "'a b'", "'a z'", "model.merges[0]: its right half"},
    {byte_level, "'a b'", "'b a'", "model.merges[0]: what it makes"},
    {byte_level, "'a b'", "'a b','a b'", "model.merges[1]: there already"},
    {byte_level, "'merges':[", "'merges':{},'z':[", "model.z: unknown field"},
    {byte_level, "'a b',['ab','c']]", "1]", "model.merges[0]"},
    {wordpiece, "'clean_text':true", "'clean_text':null", "normalizer.clean_text"},
    {wordpiece, "'handle_chinese_chars':true,", "", "normalizer.handle_chinese_chars"},
    {wordpiece, "'strip_accents':null", "'strip_accents':1", "normalizer.strip_accents"},
    {wordpiece, "'lowercase':true", "'lowercase':'yes'", "normalizer.lowercase"},
    {wordpiece, "{'type':'BertPreTokenizer'}", "{'type':'Whitespace'}", "pre_tokenizer.type: Whitespace"},
    {wordpiece, "{'type':'BertPreTokenizer'}", "[]", "pre_tokenizer: not an object"},
    {wordpiece, "'sep':['[U]',0]", "'sep':['[U]']", "post_processor.sep"},
    {wordpiece, "'cls':['[U]',0]", "'cls':['[U]',1]", "post_processor: not a token and its id"},
    {wordpiece, "'prefix':'##'", "'prefix':3", "decoder.prefix"},
    {wordpiece, "'cleanup':true", "'cleanup':3", "decoder.cleanup"},
    {wordpiece, "'unk_token':'[U]'", "'unk_token':'x'", "model.unk_token"},
    {wordpiece, "'unk_token':'[U]',", "", "model.unk_token"},
    {wordpiece, "'continuing_subword_prefix':'##',", "", "model.continuing_subword_prefix"},
    {wordpiece, "'max_input_chars_per_word':100", "'max_input_chars_per_word':0", "model.max_input_chars_per_word"},
    {wordpiece, "'max_input_chars_per_word':100", "'max_input_chars_per_word':1001", "model.max_input_chars_per_word"},
    {wordpiece, "'vocab':{'[U]':0,'a':1,'##b':2}", "'vocab':[]", "model.vocab: not an object"},
    {wordpiece, "'vocab':{'[U]':0,'a':1,'##b':2}", "'vocab':{}", "model.vocab: not an object"},
    {metaspace, "{'String':' '}", "{'String':'x'}", "normalizer.pattern"},
    {metaspace, "{'String':' '}", "{'Regex':' '}", "normalizer.pattern"},
    {metaspace, "'content':'\xe2\x96\x81'", "'content':1", "normalizer.content"},
    {metaspace, "'replacement':'\xe2\x96\x81'", "'replacement':'_'", "pre_tokenizer.replacement"},
    {metaspace, "'prepend_scheme':'first'", "'prepend_scheme':'last'", "pre_tokenizer.prepend_scheme"},
    {metaspace, "'split':false", "'split':null", "pre_tokenizer.split"},
    {metaspace, "{'type':'Fuse'},", "", "decoder.decoders[2].type: only Fuse"},
    {metaspace, "'content':' ','start':1", "'content':'x','start':1", "decoder.decoders[3].content"},
    {metaspace, "'start':1", "'start':2", "decoder.decoders[3].start"},
    {metaspace, "'stop':0", "'stop':1", "decoder.decoders[3].stop"},
    {metaspace, "'unk_token':'u'", "'byte_fallback':true", "<0x00> is missing"},
    {metaspace, "'merges':[]", "'merges':null", "model.merges"},
    {metaspace, "'added_tokens':[]", "'added_tokens':{}", "added_tokens: not an array"},
};
/* clang-format on */

/* Single quotes are written for double ones, but within double ones. */
static char *document(const char *base)
{
    char *copy = strdup(base);
    bool quoted = false;
    for (char *c = copy; *c; c++) {
        if (*c == '"')
            quoted = !quoted;
        else if (*c == '\'' && !quoted)
            *c = '"';
    }
    return copy;
}

static char *mutated(const char *base, const char *from, const char *to)
{
    static char text[8192];
    const char *at = strstr(base, from);
    CHECK(at, "%s is not in the file", from);
    (void)snprintf(text, sizeof text, "%.*s%s%s", (int)(at - base), base, to, at + strlen(from));
    return document(text);
}

static int load(const char *text, size_t bytes, char *message)
{
    struct tokenizer *tokenizer = NULL;
    message[0] = 0;
    int r = tokenizer_load(text, bytes, UINT32_MAX, message, &tokenizer);
    tokenizer_free(tokenizer);
    return r;
}

static void whole_files_are_accepted(void **state)
{
    const char *const bases[] = {byte_level, wordpiece, metaspace};
    char message[TOKENIZER_MESSAGE_BYTES];
    (void)state;
    for (size_t i = 0; i < COUNT_OF(bases); i++) {
        char *text = document(bases[i]);
        CHECK(load(text, strlen(text), message) == 0, "file %zu: %s", i, message);
        free(text);
    }
}

static void each_field_is_refused_by_name(void **state)
{
    char message[TOKENIZER_MESSAGE_BYTES];
    (void)state;
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        char *text = mutated(table[i].base, table[i].from, table[i].to);
        CHECK(load(text, strlen(text), message) == -EINVAL, "%s is accepted", table[i].to);
        CHECK(strstr(message, table[i].says), "%s: \"%s\" says not \"%s\"", table[i].to, message,
              table[i].says);
        free(text);
    }
}

static void cut_files_are_refused(void **state)
{
    char message[TOKENIZER_MESSAGE_BYTES];
    char *text = document(byte_level);
    (void)state;
    for (size_t bytes = 0; bytes < strlen(text); bytes++) {
        char *copy = malloc(bytes + 1); /* of exactly that size, for a sanitizer */
        memcpy(copy, text, bytes);
        CHECK(load(copy, bytes, message) == -EINVAL && message[0], "cut at %zu", bytes);
        free(copy);
    }
    free(text);
}

static void long_tokens_are_refused(void **state)
{
    static char longer[DETOKENIZER_TOKEN_BYTES_MAX + 32];
    char message[TOKENIZER_MESSAGE_BYTES];
    (void)state;
    for (uint32_t bytes = DETOKENIZER_TOKEN_BYTES_MAX; bytes < DETOKENIZER_TOKEN_BYTES_MAX + 2;
         bytes++) {
        const char *const bases[] = {byte_level, wordpiece, metaspace};
        (void)snprintf(longer, sizeof longer, "'vocab':{'%0*d':8,", (int)bytes, 7);
        for (size_t i = 0; i < COUNT_OF(bases); i++) {
            char *text = mutated(bases[i], "'vocab':{", longer);
            int r = load(text, strlen(text), message);
            CHECK(r == (bytes > DETOKENIZER_TOKEN_BYTES_MAX || i == 1 ? -EINVAL : 0), "%u: %s",
                  bytes, message);
            CHECK(r == 0 || strstr(message, "model.vocab: token 8"), "%s", message);
            free(text);
        }
    }
}

static void ids_beyond_the_model_are_left_out(void **state)
{
    char message[TOKENIZER_MESSAGE_BYTES];
    struct tokenizer *tokenizer;
    char *text = document(byte_level);
    uint32_t id;
    (void)state;
    assert_int_equal(tokenizer_load(text, strlen(text), 7, message, &tokenizer), 0);
    assert_int_equal(tokenizer_ids_count(tokenizer), 7);
    assert_true(tokenizer_find(tokenizer, "<a>", &id) && id == 6);
    assert_false(tokenizer_find(tokenizer, "<b>", &id));
    tokenizer_free(tokenizer);
    assert_int_equal(tokenizer_load(text, strlen(text), 5, message, &tokenizer), -EINVAL);
    assert_non_null(strstr(message, "model.vocab: \"bc\": ids below 5"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_files_are_accepted),
        cmocka_unit_test(each_field_is_refused_by_name),
        cmocka_unit_test(cut_files_are_refused),
        cmocka_unit_test(long_tokens_are_refused),
        cmocka_unit_test(ids_beyond_the_model_are_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
