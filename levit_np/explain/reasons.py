"""Explains what each layer and operation is for, in a sentence or two, for somebody new to the network."""

# By the last part of a layer's name, if its role says more than its class.
_PLACES = {
    "qkv": "Three linear maps at once: of each token they make a query (what it looks for), a key (what it "
           "offers) and a value (what it passes on), for every head.",
    "kv": "Keys (what a token offers) and values (what it passes on), computed from all tokens; the queries are "
          "computed from fewer.",
    "q": "Queries (what a token looks for), computed only from the tokens of every second pixel in every second row: "
         "about a quarter of the tokens remain.",
    "projection": "Mixes the heads' results and maps them to the number of channels of the next tokens.",
    "up": "Widens each token separately to more channels, so that the activation has more to work with.",
    "down": "Narrows each token again. The gamma of its BN, if it has one, is 0 in a fresh network: the branch starts "
            "as zero.",
    "head": "Turns the pooled token into a score (a logit) for each class; trained with the true labels.",
    "head_dist": "A second head, which learns what a teacher network predicts, or without one the labels too; the "
                 "answer averages the two.",
    "norm": "Normalizes each token before the branch, as ViT does (ablation A3).",
}
# By the layer's class.
_LAYERS = {
    "LeViT": "The whole network: convolutions turn the image into tokens, attention lets the tokens exchange "
             "information, and their mean (or class token) is classified.",
    "Stem": "Convolutions shrink the image sixteenfold in each direction (in LeViT-256) and turn pixels into tokens: "
            "they are cheap at high resolution, where attention would be expensive.",
    "ConvBN": "A small window slides over its input with a stride; each output channel responds to one pattern.",
    "Activation": "Makes the network more than one linear map: clearly negative values are suppressed, clearly "
                  "positive ones pass.",
    "BatchNorm": "Each channel is normalized to about mean beta and standard deviation gamma. In evaluation the "
                 "statistics are those stored during training, so it is a scale and a shift, which can be folded into "
                 "the linear map next to it.",
    "LayerNorm": "Each token is normalized to mean 0 and standard deviation 1 over its own channels, then scaled and "
                 "shifted.",
    "ChannelBias": "Adds one number per channel, in place of BN (ablation A3).",
    "LinearBN": "The same linear map for every token, then BN: it mixes channels, never tokens.",
    "Linear": "The same linear map for every token: it mixes channels, never tokens.",
    "Stage": "Blocks at one resolution. Every stage but the first begins by shrinking: fewer tokens, usually more "
             "channels.",
    "Block": "Attention moves information between tokens; the MLP then processes each token separately.",
    "Downsample": "The transition between two resolutions: attention with fewer queries than keys, then an MLP.",
    "Residual": "The branch's output is added to its input: tokens are corrected, not replaced, and the gradient has a "
                "direct path back.",
    "PreNorm": "The branch gets normalized tokens, as in ViT (ablation A3).",
    "Attention": "Every token is compared with all tokens (query · key; with an attention bias their offset counts "
                 "too) and takes the mean of their values, weighted by the results.",
    "ShrinkingAttention": "Attention with fewer queries than keys: each remaining token gathers from all tokens of the "
                          "previous stage.",
    "AttentionBias": "How much two pixels attend to each other by their offset alone, learned for each head: it "
                     "replaces a position embedding.",
    "MLP": "Two linear maps with an activation in between, applied to each token separately: it processes what "
           "attention has gathered.",
    "Head": "Normalizes the pooled token and turns it into a score (a logit) for each class.",
    "PositionEmbedding": "A learned vector for each position, as attention without a bias does not know where a token "
                         "is.",
    "ClassToken": "An additional token, not from the image, that collects what the heads will read.",
    "CrossEntropy": "One number for how wrong the answer is: -log of the probability of the target class. Training "
                    "minimizes it; every gradient that follows is a derivative of it.",
    "Distillation": "How wrong the answer is: half from the label on the first head, half from the teacher's choice on "
                    "the second.",
}
_OPERATIONS = {
    "convolution": "Under each window: multiply by the filter, cell by cell, and sum. b: image; c, o: input and "
                   "output channel; u, v: output pixel; i, j: cell of the filter; s: stride; p: padding.",
    "normalize": "Subtract the channel's mean, divide by its standard deviation, scale by gamma, shift by beta.",
    "linear": "One matrix product: row n of y has the dot products of token n with each row of w, plus b if there is "
              "one.",
    "hardswish": "Smooth around 0, exactly 0 below -3, exactly x above 3; cheaper than a sigmoid.",
    "silu": "A smooth gate: each value times its own sigmoid.",
    "identity": "Nothing changes: the ablation without this activation.",
    "image_to_tokens": "Only the order of the numbers changes: each pixel's channels become one token, a row.",
    "split_heads": "Only the order of the numbers changes: each head gets its own share of the channels.",
    "merge_heads": "Only the order of the numbers changes: the heads' results are concatenated.",
    "bias_index": "For each pair of pixels, the index in a table for their offset.",
    "gather_bias": "Looks up the bias of each pair of pixels in the head's table.",
    "attention": "Scores of every query with every key, softmax along the keys (each row sums to 1), then the "
                 "weighted average of the values.",
    "softmax": "Positive numbers that sum to 1, the largest score getting most.",
    "subsample": "Keeps every second pixel of every second row.",
    "average_pool": "All tokens become one: their mean.",
    "first_token": "The class token represents the image.",
    "prepend_token": "The class token is placed before the others.",
    "layer_norm": "With the mean and standard deviation over the token's own channels.",
    "targets_of": "The target as probabilities: 1 at the target class, 0 elsewhere.",
    "cross_entropy": "-log of the probability that the network gives the target.",
    "hard_distillation": "-log of the probability that the second head gives to the teacher's choice.",
    "cross_entropy_backward": "Predicted minus target probabilities, divided by the batch size. Positive where the "
                              "prediction is too high, negative where it is too low.",
    "hard_distillation_backward": "Probabilities minus the teacher's choice.",
    "convolution_backward": "Input: each gradient flows back into the window that it came from. Filter: each gradient "
                            "times the pixel that was under the cell, summed over all windows.",
    "normalize_backward": "dx is only scaled, as the statistics are constants in evaluation; gamma and beta get sums.",
    "linear_backward": "Input: the gradient times the same weights. Weights: the gradient times the input, summed over "
                       "tokens.",
    "bias_backward": "The bias was added everywhere, so its gradient is the sum.",
    "hardswish_backward": "The gradient times the slope of the curve at x; where the output was cut to 0, it is 0.",
    "silu_backward": "The gradient times the slope of the curve at x.",
    "identity_backward": "Passed on unchanged.",
    "attention_backward": "Back through the weighted mean, the softmax and the scores, to queries, keys, values and "
                          "bias.",
    "gather_bias_backward": "All pairs that used an entry of the table add their gradients to it.",
    "split_heads_backward": "Restores the order of the numbers.",
    "merge_heads_backward": "Restores the order of the numbers.",
    "subsample_backward": "Pixels that were left out did not affect the answer: their gradient is 0.",
    "average_pool_backward": "Each token had weight 1/N in the mean, and gets that share of the gradient.",
    "first_token_backward": "Only the class token was read; all others get 0.",
    "prepend_token_backward": "Separates the class token's gradient from the pixels'.",
    "tokens_to_image": "The rows become pixels again; no number changes.",
    "layer_norm_backward": "It also flows through the token's own mean and standard deviation.",
}
_BACKWARD = ("doutput is the gradient of the loss with respect to the output: how much the loss changes per unit of a "
             "small change there; from it follows that of the input ")


def of_operation(name: str) -> str:
    return _OPERATIONS.get(name, "")


def of_layer(name: str, kind: str, direction: str) -> str:
    """The explanation of a layer, by its name and class."""
    if direction == "backward" and kind == "LeViT":
        return "How the loss would change with each pixel: the gradient has come back to the image."
    if direction == "backward" and kind not in ("CrossEntropy", "Distillation"):
        return _BACKWARD + "(dinput) and of each parameter (dweight, dgamma, …), which training changes against it."
    wrapped = kind in ("Residual", "PreNorm")
    return _LAYERS.get(kind, "") if wrapped else _PLACES.get(name.rpartition(".")[2], _LAYERS.get(kind, ""))
