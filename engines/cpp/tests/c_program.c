/* The interface is C: this is compiled as C99, and runs one image. */
#include <edgekd/edgekd.h>

#include <stdio.h>
#include <stdlib.h>

int main(int count, char **words) {
    edgekd_engine *engine = NULL;
    edgekd_context *context = NULL;
    edgekd_image image = {sizeof image, NULL, 8, 6, 3, EDGEKD_RGB, 0};
    edgekd_tensor output = {sizeof output, NULL, NULL, 0, 0, 0, {0}};
    unsigned char pixels[8 * 6 * 3] = {0};
    edgekd_status status;
    if (count != 2) return 2;
    image.data = pixels;
    status = edgekd_open(words[1], NULL, &engine);
    if (status == EDGEKD_OK) status = edgekd_context_create(engine, &context);
    if (status == EDGEKD_OK) status = edgekd_context_run_images(context, &image, 1);
    if (status == EDGEKD_OK) status = edgekd_context_output(context, 0, &output);
    if (status != EDGEKD_OK) {
        fprintf(stderr, "%s: %s\n", edgekd_status_text(status), edgekd_last_error());
        return 1;
    }
    printf("%s %.6f\n", output.name, ((float *)output.data)[0]);
    edgekd_context_destroy(context);
    edgekd_close(engine);
    return 0;
}
